# SPDX-License-Identifier: Apache-2.0
"""connect(2) through a VIP: who is chosen, and what the application sees.

R33, R34, R59, R121, R122, R124, D162, D165, D169, D170.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.dialogue import Answerer, dialogue
from tests.support.hooked import Hooked
from tests.support.servers import TCP, TCP_PORT, UDP, UDP_PORT, asked, backend_in, disconnect
from tests.support.stacks import IPV4, IPV6, MAPPED, Stack, cluster_ip, peer, service_port


def program(hooked: Hooked, stack: Stack, count: int = 3) -> None:
    """VIP 10: web, TCP 80; VIP 11: another web; VIP 53: dns, UDP 53."""
    backends = stack.backends[:count]
    hooked.program_only(
        service_port("web", cluster_ip(stack.vip(10), 80, TCP), backends, family=stack.family),
        service_port(
            "other", cluster_ip(stack.vip(11), 80, TCP), stack.backends[5:7], family=stack.family
        ),
        service_port("dns", cluster_ip(stack.vip(53), 53, UDP), backends, family=stack.family),
    )


@pytest.fixture(scope="module")
def namespace(namespace_by_storage: Hooked) -> Hooked:
    return namespace_by_storage


def test_tcp_reaches_a_backend_and_sees_the_vip(hooked: Hooked, spelling: Stack) -> None:
    """R121, R122, D162, D170"""
    program(hooked, spelling)

    def client() -> tuple[object, str, bytes]:
        with spelling.tcp() as sock:
            sock.connect(spelling.at(spelling.vip(10), 80))
            name = asked(sock)
            sock.sendall(b"hello")
            return peer(sock.getpeername()), name, sock.recv(16)

    seen, name, echoed = hooked.run(client)

    assert seen == spelling.at(spelling.vip(10), 80)
    assert name in spelling.backends[:3]
    assert echoed == b"hello"


def test_connected_udp_reaches_a_backend_and_sees_the_vip(hooked: Hooked, spelling: Stack) -> None:
    """R121: getpeername() and the source of every datagram; R123: a large one."""
    program(hooked, spelling)

    def client() -> tuple[object, object, bytes]:
        with spelling.udp() as sock:
            sock.connect(spelling.at(spelling.vip(53), 53))
            sock.send(b"x" * 2000)
            answer, source = sock.recvfrom(65536)
            return peer(sock.getpeername()), peer(source), answer

    seen, source, answer = hooked.run(client)

    assert seen == source == spelling.at(spelling.vip(53), 53)
    assert backend_in(answer) in spelling.backends[:3]
    assert answer.endswith(b" " + b"x" * 2000)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_choice_is_uniform(hooked: Hooked, stack: Stack, protocol: int) -> None:
    """R33: chi-square over 3,000 connects to 5 backends, bound for p = 1e-6."""
    program(hooked, stack, count=5)

    def client() -> Counter[str]:
        chosen: Counter[str] = Counter()
        for _ in range(3000):
            if protocol == TCP:
                with stack.tcp() as sock:
                    sock.connect(stack.at(stack.vip(10), 80))
                    chosen[asked(sock)] += 1
            else:
                with stack.udp() as sock:
                    sock.connect(stack.at(stack.vip(53), 53))
                    sock.send(b"?")
                    chosen[backend_in(sock.recv(64))] += 1
        return chosen

    chosen = hooked.run(client)

    expected = 3000 / 5
    chi_square = sum((chosen[b] - expected) ** 2 / expected for b in stack.backends[:5])
    assert sum(chosen.values()) == 3000
    assert chosen.keys() == set(stack.backends[:5])
    assert chi_square < 33.4, chosen  # 4 degrees of freedom


def test_non_blocking_connect(hooked: Hooked, spelling: Stack) -> None:
    """D165"""
    program(hooked, spelling)

    def client() -> tuple[int, int, object]:
        with spelling.tcp(timeout_s=0) as sock:
            started = sock.connect_ex(spelling.at(spelling.vip(10), 80))
            select.select([], [sock], [], 3)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return started, error, peer(sock.getpeername())

    started, error, seen = hooked.run(client)

    assert started in (0, errno.EINPROGRESS)
    assert error == 0
    assert seen == spelling.at(spelling.vip(10), 80)


def test_socket_whose_connect_failed_connects_again(hooked: Hooked, stack: Stack) -> None:
    """D165: first to a dead direct port, then to a refused VIP, then to a good one."""
    program(hooked, stack)

    def client() -> tuple[int, int, object, str]:
        # blocking: a non-blocking one owes the caller an ECONNABORTED after each failure
        with stack.tcp(timeout_s=None) as sock:
            dead = sock.connect_ex(stack.at(stack.backends[0], 9))
            refused = sock.connect_ex(stack.at(stack.vip(10), 81))
            sock.connect(stack.at(stack.vip(10), 80))
            return dead, refused, peer(sock.getpeername()), asked(sock)

    dead, refused, seen, name = hooked.run(client)

    assert (dead, refused) == (errno.ECONNREFUSED, errno.ECONNREFUSED)
    assert seen == stack.at(stack.vip(10), 80)
    assert name in stack.backends[:3]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_after_a_direct_connect_the_direct_address_shows(
    hooked: Hooked, spelling: Stack, protocol: int
) -> None:
    """D165: VIP, disconnect, then every backend by its own address, also the one just used."""
    program(hooked, spelling)
    vip, backend_port = ((10, 80), TCP_PORT) if protocol == TCP else ((53, 53), UDP_PORT)

    def client() -> list[tuple[object, object]]:
        seen = []
        for address in spelling.backends[:3]:
            with spelling.tcp() if protocol == TCP else spelling.udp() as sock:
                sock.connect(spelling.at(spelling.vip(vip[0]), vip[1]))
                first = peer(sock.getpeername())
                disconnect(sock)
                sock.connect(spelling.at(address, backend_port))
                seen.append((first, peer(sock.getpeername())))
        return seen

    assert hooked.run(client) == [
        (spelling.at(spelling.vip(vip[0]), vip[1]), spelling.at(address, backend_port))
        for address in spelling.backends[:3]
    ]


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_disconnected_socket_has_no_peer_and_connects_anew(
    hooked: Hooked, stack: Stack, protocol: int
) -> None:
    """D165: AF_UNSPEC; the next connect chooses again and counts again."""
    program(hooked, stack)
    service, vip = ("web", (10, 80)) if protocol == TCP else ("dns", (53, 53))

    def client() -> tuple[int, object]:
        with stack.tcp() if protocol == TCP else stack.udp() as sock:
            sock.connect(stack.at(stack.vip(vip[0]), vip[1]))
            disconnect(sock)
            try:
                sock.getpeername()
                number = 0
            except OSError as error:
                number = error.errno or 0
            sock.connect(stack.at(stack.vip(vip[0]), vip[1]))
            return number, peer(sock.getpeername())

    number, seen = hooked.run(client)

    assert number == errno.ENOTCONN
    assert seen == stack.at(stack.vip(vip[0]), vip[1])
    counters = hooked.counters(service)
    assert (counters["opened"], counters["closed"]) == (2, 2)


def test_udp_socket_connects_to_a_second_vip(hooked: Hooked, spelling: Stack) -> None:
    """D165: without disconnecting; answers come from the second."""
    program(hooked, spelling)
    hooked.program(
        [
            service_port(
                "dns2",
                cluster_ip(spelling.vip(54), 53, UDP),
                spelling.backends[3:4],
                family=spelling.family,
            )
        ]
    )

    def client() -> list[tuple[object, object, str]]:
        seen = []
        with spelling.udp() as sock:
            for vip in (53, 54, 54, 53):
                sock.connect(spelling.at(spelling.vip(vip), 53))
                sock.send(b"?")
                answer, source = sock.recvfrom(64)
                seen.append((peer(sock.getpeername()), peer(source), backend_in(answer)))
        return seen

    seen = hooked.run(client)

    vips = [spelling.at(spelling.vip(vip), 53) for vip in (53, 54, 54, 53)]
    assert [(s[0], s[1]) for s in seen] == [(vip, vip) for vip in vips]
    assert seen[1][2] == seen[2][2] == spelling.backends[3]
    assert seen[0][2] in spelling.backends[:3]


def test_socket_opened_before_the_service_existed(hooked: Hooked, stack: Stack) -> None:
    """R122"""
    hooked.program_only()
    go_reader, go_writer = os.pipe()
    done_reader, done_writer = os.pipe()

    def client(ready: object) -> None:
        with stack.tcp() as tcp, stack.udp() as udp:
            udp.bind((stack.loopback if stack.family == 6 else "0.0.0.0", 0))
            ready()  # type: ignore[operator]
            os.read(go_reader, 1)
            tcp.connect(stack.at(stack.vip(10), 80))
            os.write(done_writer, f"{peer(tcp.getpeername())}".encode())

    child = hooked.start(client)
    program(hooked, stack)
    os.write(go_writer, b"1")
    readable, _, _ = select.select([done_reader], [], [], 5)
    seen = os.read(done_reader, 256).decode() if readable else "nothing"
    child.stop()
    for fd in (go_reader, go_writer, done_reader, done_writer):
        os.close(fd)

    assert seen == str(stack.at(stack.vip(10), 80))


def test_one_process_talks_to_several_services(hooked: Hooked, stack: Stack) -> None:
    """R122; connections stay apart."""
    program(hooked, stack)

    def client() -> list[tuple[object, str]]:
        with stack.tcp() as one, stack.tcp() as two, stack.tcp() as three:
            one.connect(stack.at(stack.vip(10), 80))
            two.connect(stack.at(stack.vip(11), 80))
            three.connect(stack.at(stack.vip(10), 80))
            return [(peer(sock.getpeername()), asked(sock)) for sock in (one, two, three)]

    (one, one_name), (two, two_name), (three, three_name) = hooked.run(client)

    assert one == three == stack.at(stack.vip(10), 80)
    assert two == stack.at(stack.vip(11), 80)
    assert {one_name, three_name} <= set(stack.backends[:3])
    assert two_name in stack.backends[5:7]


def test_server_reaches_itself_through_its_service(hooked: Hooked, stack: Stack) -> None:
    """R59: listener and client are one process, bound to the only backend's address."""
    hooked.program_only(
        service_port(
            "self", cluster_ip(stack.vip(10), 80, TCP), [stack.backends[0]], family=stack.family
        )
    )

    def client() -> tuple[object, object]:
        with stack.tcp() as sock:
            sock.bind((stack.backends[0], 0))
            sock.connect(stack.at(stack.vip(10), 80))
            return peer(sock.getpeername()), asked(sock)

    assert hooked.run(client) == (stack.at(stack.vip(10), 80), stack.backends[0])


def test_echo_request_to_a_vip_is_not_redirected(hooked: Hooked, stack: Stack) -> None:
    """R39: with a route that makes the VIP local, the answer is the VIP's, not a backend's."""
    program(hooked, stack)
    icmp, request = (
        (socket.IPPROTO_ICMP, b"\x08\0\0\0\0\0\0\1")
        if stack.family == 4
        else (socket.IPPROTO_ICMPV6, b"\x80\0\0\0\0\0\0\1")
    )

    def client() -> object:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
        subprocess.run(["ip", "address", "add", stack.vip(10), "dev", "lo"], check=True)
        try:
            with socket.socket(stack.socket_family, socket.SOCK_DGRAM, icmp) as sock:
                sock.settimeout(3)
                sock.connect((stack.vip(10), 80))
                sock.send(request)
                return sock.recvfrom(64)[1][0]
        finally:
            length = 32 if stack.family == 4 else 128
            subprocess.run(["ip", "address", "del", f"{stack.vip(10)}/{length}", "dev", "lo"])

    assert hooked.run(client) == stack.vip(10)
    assert hooked.counters("web")["opened"] == 0


def test_raw_socket_of_protocol_tcp_is_untouched(hooked: Hooked, stack: Stack) -> None:
    """R39: IPPROTO_TCP alone does not make a socket a TCP socket."""
    program(hooked, stack)

    def client() -> object:
        with socket.socket(stack.socket_family, socket.SOCK_RAW, TCP) as sock:
            try:
                sock.connect((stack.vip(10), 80))
            except OSError as error:
                return error.errno
            return peer(sock.getpeername())

    # the namespace has no route to a VIP, so the kernel's own answer is the proof
    assert hooked.run(client) == errno.ENETUNREACH


def test_v6only_socket_reaches_ipv6_services_only(hooked: Hooked) -> None:
    """D170: V6ONLY refuses v4-mapped addresses itself, hooks or not."""
    program(hooked, IPV6)
    hooked.program(
        [service_port("web4", cluster_ip(IPV4.vip(10), 80, TCP), IPV4.backends[:1], family=4)]
    )

    def client() -> tuple[object, int]:
        with IPV6.tcp() as sock, IPV6.tcp() as mapped:
            for each in (sock, mapped):
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.connect((IPV6.vip(10), 80))
            return peer(sock.getpeername()), mapped.connect_ex(MAPPED.at(IPV4.vip(10), 80))

    seen, number = hooked.run(client)

    assert seen == (IPV6.vip(10), 80)
    assert number == errno.ENETUNREACH


def test_reuseport_sockets_each_keep_their_own_flow(hooked: Hooked, stack: Stack) -> None:
    """D169: two sockets on one local port, two VIPs."""
    program(hooked, stack)

    def client() -> list[object]:
        with stack.tcp() as one, stack.tcp() as two:
            for sock in (one, two):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind((stack.backends[8], 0))
            two.bind((stack.backends[8], one.getsockname()[1]))
            one.connect(stack.at(stack.vip(10), 80))
            two.connect(stack.at(stack.vip(11), 80))
            return [peer(sock.getpeername()) for sock in (one, two)]

    assert hooked.run(client) == [stack.at(stack.vip(10), 80), stack.at(stack.vip(11), 80)]


@pytest.mark.xfail(strict=True, reason="no source port is rewritten: one 4-tuple, one connection")
def test_one_local_port_reaches_one_backend_through_two_vips(hooked: Hooked, stack: Stack) -> None:
    """R124: works unless the application itself insists on the source port, as here."""
    hooked.program_only(
        *(
            service_port(
                f"web{number}",
                cluster_ip(stack.vip(number), 80, TCP),
                stack.backends[:1],
                family=stack.family,
            )
            for number in (10, 11)
        )
    )

    def client() -> list[int]:
        with stack.tcp() as one, stack.tcp() as two:
            for sock in (one, two):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind((stack.backends[8], 0))
            two.bind((stack.backends[8], one.getsockname()[1]))
            return [
                one.connect_ex(stack.at(stack.vip(10), 80)),
                two.connect_ex(stack.at(stack.vip(11), 80)),
            ]

    assert hooked.run(client) == [0, 0]


@pytest.mark.parametrize("change", ["Service deleted", "backend gone", "restart"])
def test_established_connection_outlives_every_change(
    hooked: Hooked, spelling: Stack, change: str
) -> None:
    """R34, R128: data flows and the peer is still the VIP."""
    program(hooked, spelling)

    def client() -> Answerer:
        sock = spelling.tcp()
        sock.connect(spelling.at(spelling.vip(10), 80))
        asked(sock)

        def use() -> tuple[object, bytes]:
            sock.sendall(b"still here")
            return peer(sock.getpeername()), sock.recv(64)

        return use

    with dialogue(hooked, client) as use:
        if change == "Service deleted":
            hooked.program_only()
        elif change == "backend gone":
            web = cluster_ip(spelling.vip(10), 80, TCP)
            rest = spelling.backends[5:6]
            hooked.program([service_port("web", web, rest, family=spelling.family)])
        else:
            hooked.load(bind_protection=True)
            hooked.load()
            hooked.program_only()
        seen = use()

    assert seen == (spelling.at(spelling.vip(10), 80), b"still here")


_SO_COOKIE = 57
_PLACES = 65536  # whatever is indexed by socket cookie has at most so many places


def socket_like(stack: Stack, other: socket.socket) -> socket.socket:
    """A socket whose cookie equals that of `other` modulo _PLACES."""

    def cookie(sock: socket.socket) -> int:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
        return int.from_bytes(raw, sys.byteorder)

    wanted = cookie(other) % _PLACES
    for _ in range(20 * _PLACES):  # cookies are dealt out to CPUs in blocks
        found = stack.tcp()
        if cookie(found) % _PLACES == wanted:
            return found
        found.close()
    raise TimeoutError("no such cookie")


@pytest.mark.parametrize("closed_first", [0, 1], ids=["older closed", "younger closed"])
def test_sockets_with_colliding_cookies_keep_their_own_flow(
    hooked: Hooked, closed_first: int
) -> None:
    """R121: each shows its VIP, also after the other was closed, and each is counted once.

    Cookies know no family, and finding one takes 65,536 sockets: no IPv6 twin.
    """
    stack = IPV4
    program(hooked, stack)

    def client() -> list[object]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        older = stack.tcp()
        older.connect(stack.at(stack.vip(10), 80))
        younger = socket_like(stack, older)
        younger.connect(stack.at(stack.vip(11), 80))
        both = [older, younger]
        seen = [peer(sock.getpeername()) for sock in both]
        both.pop(closed_first).close()
        third = socket_like(stack, both[0])
        third.connect(stack.at(stack.vip(10), 80))
        return [*seen, peer(both[0].getpeername()), peer(third.getpeername())]

    web, other = stack.at(stack.vip(10), 80), stack.at(stack.vip(11), 80)
    assert hooked.run(client) == [web, other, (other, web)[closed_first], web]
    counters = [hooked.counters(name) for name in ("web", "other")]
    assert [(c["opened"], c["closed"]) for c in counters] == [(2, 2), (1, 1)]


def test_fast_open_sendto_is_a_connect(hooked: Hooked, stack: Stack) -> None:
    """D169: sendto(MSG_FASTOPEN) on a fresh TCP socket."""
    program(hooked, stack)

    def client() -> tuple[object, str, bytes]:
        with stack.tcp(timeout_s=None) as sock:
            sock.sendto(b"early", socket.MSG_FASTOPEN, stack.at(stack.vip(10), 80))
            return peer(sock.getpeername()), asked(sock), sock.recv(16)

    seen, name, echoed = hooked.run(client)

    assert seen == stack.at(stack.vip(10), 80)
    assert name in stack.backends[:3]
    assert echoed == b"early"


def test_counters_of_a_connection(hooked: Hooked, stack: Stack) -> None:
    """Opened at connect, closed at close; per Service and per backend."""
    program(hooked, stack)

    def client() -> None:
        for _ in range(20):
            with stack.tcp() as sock:
                sock.connect(stack.at(stack.vip(10), 80))
                asked(sock)

    hooked.run(client)

    counters = hooked.counters("web")
    per_backend = hooked.backend_counters("web")
    assert (counters["opened"], counters["closed"]) == (20, 20)
    assert (per_backend["opened"].sum(), per_backend["closed"].sum()) == (20, 20)
    assert hooked.counters("other")["opened"] == 0
