# SPDX-License-Identifier: Apache-2.0
"""NodePorts at the socket: where they are served, and who may bind them.

R89–R95, D167, D170.
"""

from __future__ import annotations

import errno
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dialogue import Answerer, dialogue
from tests.support.hooked import Hooked
from tests.support.servers import TCP, TCP_PORT, UDP, UDP_PORT, asked, backend_in, serve_names
from tests.support.stacks import (
    IPV4,
    IPV6,
    NODE_ADDRESSES,
    Stack,
    external_ip,
    node_port,
    peer,
    service_port,
)
from vipbee.abi import Reason
from vipbee.address import parse_address

NODE_PORT = 30080
_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


@pytest.fixture(scope="module")
def protected_namespace(as_root: None) -> Iterator[Hooked]:
    with Hooked.up(bind_protection=True) as up:
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


@pytest.fixture
def protected(protected_namespace: Hooked) -> Hooked:
    """Bind protection on; NodePort 30080 is TCP only, in both families."""
    protected_namespace.program_only(
        *(
            service_port(
                f"web{stack.family}",
                node_port(stack.family, NODE_PORT, TCP),
                stack.backends[:1],
                family=stack.family,
            )
            for stack in (IPV4, IPV6)
        )
    )
    return protected_namespace


def program(hooked: Hooked, stack: Stack, protocol: int = TCP) -> None:
    hooked.program_only(
        service_port(
            "web",
            node_port(stack.family, NODE_PORT, protocol),
            stack.backends[:2],
            family=stack.family,
        )
    )


def dial(stack: Stack, protocol: int, address: str, port: int) -> tuple[object, str]:
    """(peer seen, backend that answered)."""
    if protocol == TCP:
        with stack.tcp() as sock:
            sock.connect(stack.at(address, port))
            return peer(sock.getpeername()), asked(sock)
    with stack.udp() as sock:
        sock.sendto(b"?", stack.at(address, port))
        answer, source = sock.recvfrom(64)
        return peer(source), backend_in(answer)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
@pytest.mark.parametrize("where", ["node", "loopback"])
def test_node_port_is_served(hooked: Hooked, spelling: Stack, protocol: int, where: str) -> None:
    """R89 on the node's address, R91 on loopback for programs of the node."""
    program(hooked, spelling, protocol)
    address = getattr(spelling, where)

    seen, name = hooked.run(lambda: dial(spelling, protocol, address, NODE_PORT))

    assert seen == spelling.at(address, NODE_PORT)
    assert name in spelling.backends[:2]


def test_loopback_of_another_namespace_is_its_own(hooked: Hooked, stack: Stack) -> None:
    """R91: HOST_ONLY; refused where nobody listens, and the listener there is reached."""
    program(hooked, stack)

    def client() -> tuple[int, object]:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with stack.tcp() as sock:
            before = sock.connect_ex((stack.loopback, NODE_PORT))
        with stack.tcp() as server, stack.tcp() as sock:
            server.bind((stack.loopback, NODE_PORT))
            server.listen()
            sock.connect((stack.loopback, NODE_PORT))
            connection, _ = server.accept()
            with connection:
                return before, connection.getpeername() == sock.getsockname()

    assert hooked.run(client, new_netns=True) == (errno.ECONNREFUSED, True)
    assert hooked.counters("web")["opened"] == 0


def test_node_address_dialled_from_another_namespace_is_served(
    hooked: Hooked, stack: Stack
) -> None:
    """R89: pods as well; chosen before routing, so here there is just no way to it."""
    program(hooked, stack)

    def client() -> int:
        with stack.tcp() as sock:
            return sock.connect_ex((stack.node, NODE_PORT))

    assert hooked.run(client, new_netns=True) in (errno.ENETUNREACH, errno.EADDRNOTAVAIL)
    assert hooked.counters("web")["opened"] == 1


def test_other_ports_and_other_addresses_pass(hooked: Hooked, stack: Stack) -> None:
    """F27, R90: a host server on an unselected address keeps the number; other ports are free."""
    program(hooked, stack)

    def client() -> tuple[int, bool]:
        with stack.tcp() as server, stack.tcp() as sock, stack.tcp() as other:
            other_port = other.connect_ex((stack.node, NODE_PORT + 1))
            server.bind((stack.other, NODE_PORT))
            server.listen()
            sock.connect((stack.other, NODE_PORT))
            connection, _ = server.accept()
            with connection:
                return other_port, connection.getpeername() == sock.getsockname()

    assert hooked.run(client) == (errno.ECONNREFUSED, True)


def test_number_belongs_to_one_protocol(hooked: Hooked, stack: Stack) -> None:
    """R93: keyed by (number, protocol)."""
    program(hooked, stack, UDP)

    def client() -> int:
        with stack.tcp() as sock:
            return sock.connect_ex((stack.node, NODE_PORT))

    assert hooked.run(client) == errno.ECONNREFUSED
    assert hooked.counters("web")["opened"] == 0


def test_exact_frontend_comes_before_the_node_port(hooked: Hooked, stack: Stack) -> None:
    """F27, R92: an external IP that is the node's address, same number, another Service."""
    hooked.program_only(
        service_port(
            "by-node-port",
            node_port(stack.family, NODE_PORT, TCP),
            stack.backends[:1],
            family=stack.family,
        ),
        service_port(
            "by-address",
            external_ip(stack.node, NODE_PORT, TCP),
            stack.backends[1:2],
            family=stack.family,
        ),
    )

    def client() -> tuple[str, str]:
        return (
            dial(stack, TCP, stack.node, NODE_PORT)[1],
            dial(stack, TCP, stack.loopback, NODE_PORT)[1],
        )

    assert hooked.run(client) == (stack.backends[1], stack.backends[0])


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_own_flow_from_a_node_port_number_is_untouched(
    hooked: Hooked, stack: Stack, protocol: int
) -> None:
    """R94: the node dials out from source port 30080; the answers of a host elsewhere arrive."""
    program(hooked, stack, protocol)
    server = hooked.start(lambda ready: serve_names(ready, [stack.elsewhere]), in_cgroup=False)

    def client() -> tuple[object, object]:
        with stack.tcp() if protocol == TCP else stack.udp() as sock:
            sock.bind((stack.node, NODE_PORT))
            if protocol == TCP:
                sock.connect((stack.elsewhere, TCP_PORT))
                return asked(sock), sock.getsockname()[1]
            sock.sendto(b"?", (stack.elsewhere, UDP_PORT))
            answer, source = sock.recvfrom(64)
            return backend_in(answer), source[0] == stack.elsewhere and NODE_PORT

    assert hooked.run(client) == (stack.elsewhere, NODE_PORT)
    assert hooked.counters("web")["opened"] == 0
    server.stop()


@pytest.mark.xfail(strict=True, reason="a socket hook cannot tell a datagram that answers")
def test_answer_of_a_server_on_the_node_to_a_node_port_number(hooked: Hooked, stack: Stack) -> None:
    """R94, cilium#44348: an unconnected UDP server under the hooks answers node:30080, and
    that looks like a client that dials the NodePort."""
    program(hooked, stack, UDP)

    def client() -> str:
        with stack.udp(timeout_s=0.2) as sock:
            sock.bind((stack.node, NODE_PORT))
            sock.sendto(b"?", (stack.backends[3], UDP_PORT))
            return backend_in(sock.recv(64))

    assert hooked.run(client) == stack.backends[3]


def test_abandoned_number_is_an_ordinary_port(hooked: Hooked, stack: Stack) -> None:
    """R95"""
    program(hooked, stack)
    hooked.program_only()
    before = hooked.reasons()

    def client() -> int:
        with stack.tcp() as sock:
            return sock.connect_ex((stack.node, NODE_PORT))

    assert hooked.run(client) == errno.ECONNREFUSED  # of the host's own stack
    assert hooked.reasons() == before


def test_swapped_numbers_lead_to_their_new_owners(hooked: Hooked, stack: Stack) -> None:
    """R95: two Services exchange their NodePorts in one update."""

    def services(one: int, two: int) -> None:
        hooked.program(
            [
                service_port(
                    name,
                    node_port(stack.family, number, TCP),
                    [stack.backends[at]],
                    family=stack.family,
                )
                for at, (name, number) in enumerate((("one", one), ("two", two)))
            ]
        )

    def client() -> list[str]:
        return [dial(stack, TCP, stack.node, number)[1] for number in (NODE_PORT, NODE_PORT + 1)]

    services(NODE_PORT, NODE_PORT + 1)
    before = hooked.run(client)
    services(NODE_PORT + 1, NODE_PORT)
    after = hooked.run(client)

    assert before == [stack.backends[0], stack.backends[1]]
    assert after == [stack.backends[1], stack.backends[0]]


# ---- bind protection ------------------------------------------------------------------


def bind_error(
    hooked: Hooked,
    family: socket.AddressFamily,
    address: str,
    port: int = NODE_PORT,
    *,
    kind: int = socket.SOCK_STREAM,
    v6only: bool = False,
    new_netns: bool = False,
) -> int:
    """The errno of bind(2), 0 if it succeeded."""

    def client() -> int:
        if new_netns:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT of others
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            try:
                sock.bind((address, port))
            except OSError as error:
                return error.errno or -1
            return 0

    return hooked.run(client, new_netns=new_netns)


@pytest.mark.parametrize("where", ["wildcard", "node", "loopback"])
def test_bind_is_free_by_default(hooked: Hooked, stack: Stack, where: str) -> None:
    """R93: off unless asked for."""
    program(hooked, stack)
    wildcard = "0.0.0.0" if stack is IPV4 else "::"
    address = wildcard if where == "wildcard" else getattr(stack, where)

    assert bind_error(hooked, stack.socket_family, address) == 0


@pytest.mark.parametrize("where", ["wildcard", "node", "loopback"])
def test_bind_of_a_node_port_is_refused(protected: Hooked, stack: Stack, where: str) -> None:
    """R93, D167; counted by its reason."""
    wildcard = "0.0.0.0" if stack is IPV4 else "::"
    address = wildcard if where == "wildcard" else getattr(stack, where)
    before = protected.reasons()[Reason.BIND_PROTECTED]

    # what the kernel makes of a refusal after the port was taken
    assert bind_error(protected, stack.socket_family, address) in (
        errno.EPERM,
        errno.EADDRINUSE,
        errno.EACCES,
    )
    assert protected.reasons()[Reason.BIND_PROTECTED] == before + 1


def test_bind_elsewhere_is_free(protected: Hooked, stack: Stack) -> None:
    """R93: an unselected address, another number, the other protocol, another namespace."""
    family, wildcard = stack.socket_family, "0.0.0.0" if stack is IPV4 else "::"

    assert bind_error(protected, family, stack.other) == 0
    assert bind_error(protected, family, wildcard, NODE_PORT + 1) == 0
    assert bind_error(protected, family, wildcard, kind=socket.SOCK_DGRAM) == 0
    assert bind_error(protected, family, wildcard, new_netns=True) == 0
    assert bind_error(protected, family, stack.loopback, new_netns=True) == 0


def test_dual_stack_wildcard_would_take_the_ipv4_port(protected: Hooked) -> None:
    """R93, D170: only IPv4 has a NodePort; :: takes it too unless V6ONLY."""
    protected.program_only(
        service_port("web4", node_port(4, NODE_PORT, TCP), IPV4.backends[:1], family=4)
    )

    dual = bind_error(protected, socket.AF_INET6, "::")
    mapped = bind_error(protected, socket.AF_INET6, f"::ffff:{IPV4.node}")
    v4_only = bind_error(protected, socket.AF_INET, "0.0.0.0")

    assert dual == mapped == v4_only != 0


def test_v6only_wildcard_counts_as_dual_stack(protected: Hooked) -> None:
    """D170: the hook cannot see IPV6_V6ONLY; refusing too much is the safe side."""
    protected.program_only(
        service_port("web4", node_port(4, NODE_PORT, TCP), IPV4.backends[:1], family=4)
    )

    assert bind_error(protected, socket.AF_INET6, "::", v6only=True) != 0


def test_port_that_connect_chooses_is_not_protected(protected: Hooked, stack: Stack) -> None:
    """R94: no bind(2), so nobody listens there; all ephemeral ports are NodePorts here."""
    protected.program_only(
        *(
            service_port(f"n{port}", node_port(stack.family, port, TCP), [], family=stack.family)
            for port in range(32768, 32776)
        )
    )

    def client() -> list[int]:
        Path(_PORT_RANGE).write_text("32768 32775")
        with stack.tcp() as server:
            server.bind((stack.node, TCP_PORT))
            server.listen()
            socks = [stack.tcp() for _ in range(4)]
            return [sock.connect_ex((stack.node, TCP_PORT)) for sock in socks]

    default = protected.run(lambda: Path(_PORT_RANGE).read_text())
    try:
        assert protected.run(client) == [0] * 4
    finally:
        protected.run(lambda: Path(_PORT_RANGE).write_text(default))


def test_bind_to_any_port_is_free_where_no_node_ports_are(protected: Hooked, stack: Stack) -> None:
    """R93: the ephemeral range and the NodePort range are apart by default."""
    assert [bind_error(protected, stack.socket_family, stack.node, 0) for _ in range(5)] == [0] * 5


def test_udp_flow_ends_with_the_node_address_it_dialled(hooked: Hooked, stack: Stack) -> None:
    """R90: the node loses an address; its socket then reaches whoever listens there."""
    program(hooked, stack, UDP)
    addresses = {a: f for a, f in NODE_ADDRESSES.items() if a != parse_address(stack.node)}

    def client() -> Answerer:
        sock, host = stack.udp(), stack.udp()
        host.bind(stack.at(stack.node, NODE_PORT))

        def ask() -> bytes:
            sock.sendto(b"?", stack.at(stack.node, NODE_PORT))
            (ready, *_), _, _ = select.select([sock, host], [], [], 10)
            return b"backend" if ready is sock and sock.recv(64) else host.recv(64)

        return ask

    try:
        with dialogue(hooked, client) as ask:
            before = ask()
            hooked.program([], node_addresses=addresses)
            after = ask()
    finally:
        hooked.program([], node_addresses=NODE_ADDRESSES)

    assert (before, after) == (b"backend", b"?")
