# SPDX-License-Identifier: Apache-2.0
"""Unconnected UDP sockets: one flow per VIP, however many a socket talks to.

R110–R114, R121, R124, D92–D94, D163; each with reverse state in socket storage and
without it.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.support.dialogue import dialogue
from tests.support.hooked import Hooked
from tests.support.servers import UDP, UDP_PORT, backend_in, disconnect
from tests.support.stacks import (
    CLUSTER,
    DRAINING,
    IPV4,
    IPV6,
    Stack,
    backend,
    cluster_ip,
    peer,
    service_port,
)
from vipbee.abi import BackendFlag
from vipbee.model import Frontend, ServiceName, ServicePort

Exchange = Callable[[str, int], tuple[object, str]]


@pytest.fixture(scope="module")
def namespace(namespace_by_storage: Hooked) -> Hooked:
    return namespace_by_storage


def dns(stack: Stack, backends: object, *, number: int = 53) -> ServicePort:
    """UDP 53 of VIP `number`; the Service is called dns<number>."""
    frontend = cluster_ip(stack.vip(number), 53, UDP)
    return service_port(f"dns{number}", frontend, backends, family=stack.family)  # type: ignore[arg-type]


@contextlib.contextmanager
def one_socket(hooked: Hooked, stack: Stack, *, timeout_s: float = 3.0) -> Iterator[Exchange]:
    """One unconnected socket; each exchange answers (source seen, backend that answered)."""

    def client() -> Exchange:
        sock = stack.udp(timeout_s=timeout_s)

        def exchange(address: str, port: int) -> tuple[object, str]:
            sock.sendto(b"?", stack.at(address, port))
            answer, source = sock.recvfrom(64)
            return peer(source), backend_in(answer)

        return exchange

    with dialogue(hooked, client) as ask:
        yield ask


def error_of(exchange: Exchange, address: str, port: int) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the errno is what is asked for)
        exchange(address, port)
    return caught.value.errno or -1


def test_flow_stays_and_shows_the_vip(hooked: Hooked, spelling: Stack) -> None:
    """R110, R121, D163: 20 datagrams, one backend, though there are nine."""
    hooked.program_only(dns(spelling, spelling.backends))

    with one_socket(hooked, spelling) as exchange:
        seen = {exchange(spelling.vip(53), 53) for _ in range(20)}

    ((source, name),) = seen
    assert source == spelling.at(spelling.vip(53), 53)
    assert name in spelling.backends
    counters = hooked.counters("dns53")
    assert (counters["opened"], counters["closed"]) == (1, 1)


def test_one_socket_talks_to_several_vips(hooked: Hooked, spelling: Stack) -> None:
    """R121, R122: each VIP has its own flow, in any order."""
    hooked.program_only(
        dns(spelling, spelling.backends[:3]),
        dns(spelling, spelling.backends[3:6], number=54),
        dns(spelling, spelling.backends[6:9], number=55),
    )

    with one_socket(hooked, spelling) as exchange:
        order = [53, 54, 55, 53, 55, 54, 53, 54, 55]
        seen = [(vip, *exchange(spelling.vip(vip), 53)) for vip in order]

    assert [source for _, source, _ in seen] == [
        spelling.at(spelling.vip(vip), 53) for vip in order
    ]
    names = {vip: {name for v, _, name in seen if v == vip} for vip in (53, 54, 55)}
    assert all(len(each) == 1 for each in names.values()), names
    assert names[53] <= set(spelling.backends[:3])
    assert names[54] <= set(spelling.backends[3:6])
    assert names[55] <= set(spelling.backends[6:9])


def test_two_vips_of_one_backend_each_show_themselves(hooked: Hooked, stack: Stack) -> None:
    """R124: question and answer in turn, the only way one backend can be told apart."""
    hooked.program_only(dns(stack, stack.backends[:1]), dns(stack, stack.backends[:1], number=54))

    with one_socket(hooked, stack) as exchange:
        order = [53, 54, 54, 53, 54, 53]
        seen = [exchange(stack.vip(vip), 53)[0] for vip in order]

    assert seen == [stack.at(stack.vip(vip), 53) for vip in order]


def test_flow_moves_when_its_backend_stops_serving(hooked: Hooked, spelling: Stack) -> None:
    """R111, D92: the very next datagram."""
    hooked.program_only(dns(spelling, spelling.backends[:2]))

    with one_socket(hooked, spelling) as exchange:
        _, first = exchange(spelling.vip(53), 53)
        (other,) = set(spelling.backends[:2]) - {first}
        hooked.program([dns(spelling, [other])])
        source, second = exchange(spelling.vip(53), 53)

    assert second == other
    assert source == spelling.at(spelling.vip(53), 53)


def test_further_flow_moves_when_its_backend_stops_serving(hooked: Hooked, stack: Stack) -> None:
    """R111: the second VIP of a socket moves as well, the first stays (R114)."""
    hooked.program_only(dns(stack, stack.backends[:3]), dns(stack, stack.backends[3:5], number=54))

    with one_socket(hooked, stack) as exchange:
        _, first = exchange(stack.vip(53), 53)
        _, further = exchange(stack.vip(54), 53)
        (other,) = set(stack.backends[3:5]) - {further}
        hooked.program([dns(stack, [other], number=54)])
        moved = exchange(stack.vip(54), 53)
        stayed = exchange(stack.vip(53), 53)

    assert moved == (stack.at(stack.vip(54), 53), other)
    assert stayed == (stack.at(stack.vip(53), 53), first)


def test_flow_moves_when_its_backend_changes_port(hooked: Hooked, stack: Stack) -> None:
    """R111"""
    dead_port = backend(stack.backends[0], UDP)._replace(port=9)
    hooked.program_only(dns(stack, [dead_port]))

    with one_socket(hooked, stack, timeout_s=0.2) as exchange:
        with pytest.raises(TimeoutError):
            exchange(stack.vip(53), 53)
        hooked.program([dns(stack, [stack.backends[0]])])
        answer = exchange(stack.vip(53), 53)

    assert answer == (stack.at(stack.vip(53), 53), stack.backends[0])


@pytest.mark.parametrize("flags", [DRAINING, int(BackendFlag.SERVING)], ids=["draining", "no set"])
def test_flow_stays_while_its_backend_serves(hooked: Hooked, stack: Stack, flags: int) -> None:
    """R110: whatever the sets for new flows say."""
    hooked.program_only(dns(stack, stack.backends[:3]))

    with one_socket(hooked, stack) as exchange:
        _, first = exchange(stack.vip(53), 53)
        draining = [backend(b, UDP, flags if b == first else CLUSTER) for b in stack.backends[:3]]
        hooked.program([dns(stack, draining)])
        after = {exchange(stack.vip(53), 53)[1] for _ in range(10)}
    with one_socket(hooked, stack) as exchange:
        fresh = exchange(stack.vip(53), 53)[1]

    assert after == {first}
    assert fresh != first


def test_service_without_endpoint_gets_one(hooked: Hooked, spelling: Stack) -> None:
    """R112, D93: the same socket, refused before, is served after."""
    hooked.program_only(dns(spelling, []))

    with one_socket(hooked, spelling) as exchange:
        before = error_of(exchange, spelling.vip(53), 53)
        hooked.program([dns(spelling, spelling.backends[:1])])
        after = exchange(spelling.vip(53), 53)

    assert before == errno.ECONNREFUSED
    assert after == (spelling.at(spelling.vip(53), 53), spelling.backends[0])


def test_service_loses_its_last_endpoint(hooked: Hooked, stack: Stack) -> None:
    """R113: an existing flow is refused (R35), and comes back with the endpoint (R112)."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with one_socket(hooked, stack) as exchange:
        exchange(stack.vip(53), 53)
        hooked.program([dns(stack, [])])
        refused = error_of(exchange, stack.vip(53), 53)
        hooked.program([dns(stack, stack.backends[1:2])])
        answer = exchange(stack.vip(53), 53)

    assert refused == errno.ECONNREFUSED
    assert answer == (stack.at(stack.vip(53), 53), stack.backends[1])


def test_deleted_service_is_no_longer_intercepted(hooked: Hooked, stack: Stack) -> None:
    """R113, R114: its flow ends, that of another Service on the socket goes on."""
    hooked.program_only(dns(stack, stack.backends[:1]), dns(stack, stack.backends[3:4], number=54))

    with one_socket(hooked, stack) as exchange:
        exchange(stack.vip(53), 53)
        exchange(stack.vip(54), 53)
        hooked.program([], gone=[ServiceName("default", "dns53")])
        gone = error_of(exchange, stack.vip(53), 53)
        other = exchange(stack.vip(54), 53)

    assert gone == errno.ENETUNREACH  # left to routing, and there is no route
    assert other == (stack.at(stack.vip(54), 53), stack.backends[3])


@pytest.mark.parametrize("further", [False, True], ids=["first flow", "further flow"])
def test_vip_that_changes_hands_takes_its_flows_along(
    hooked: Hooked, stack: Stack, further: bool
) -> None:
    """R113, R127: the former owner goes on serving, by another VIP; its backend serves too."""
    vip = cluster_ip(stack.vip(53), 53, UDP)
    elsewhere = cluster_ip(stack.vip(55), 53, UDP)

    def owned(name: str, frontend: Frontend, backend_: str) -> ServicePort:
        return service_port(name, frontend, [backend_], family=stack.family)

    hooked.program_only(
        owned("old", vip, stack.backends[0]), dns(stack, stack.backends[5:6], number=54)
    )

    with one_socket(hooked, stack) as exchange:
        if further:
            exchange(stack.vip(54), 53)
        before = exchange(stack.vip(53), 53)
        hooked.program(
            [owned("old", elsewhere, stack.backends[0]), owned("new", vip, stack.backends[1])]
        )
        after = exchange(stack.vip(53), 53)
        former = exchange(stack.vip(55), 53)

    assert before == (stack.at(stack.vip(53), 53), stack.backends[0])
    assert after == (stack.at(stack.vip(53), 53), stack.backends[1])
    assert former == (stack.at(stack.vip(55), 53), stack.backends[0])


def test_port_withdrawn_from_a_living_service_is_refused(hooked: Hooked, stack: Stack) -> None:
    """R15, R37, R113: the flow's backend serves on, but the VIP has no such port any more."""
    two = cluster_ip(stack.vip(53), 53, UDP), cluster_ip(stack.vip(53), 54, UDP)
    hooked.program_only(service_port("dns", two, stack.backends[:1], family=stack.family))

    with one_socket(hooked, stack) as exchange:
        exchange(stack.vip(53), 53)
        hooked.program([service_port("dns", two[1], stack.backends[:1], family=stack.family)])
        number = error_of(exchange, stack.vip(53), 53)
        other = exchange(stack.vip(53), 54)

    assert number == errno.ECONNREFUSED
    assert other == (stack.at(stack.vip(53), 54), stack.backends[0])


def test_unrelated_changes_leave_a_flow_alone(hooked: Hooked, stack: Stack) -> None:
    """R114, R23: backends come, another Service changes, its own backend stays."""
    hooked.program_only(dns(stack, stack.backends[:3]), dns(stack, stack.backends[:3], number=54))

    with one_socket(hooked, stack) as exchange:
        _, first = exchange(stack.vip(53), 53)
        hooked.program([dns(stack, stack.backends[:8])])
        hooked.program([dns(stack, stack.backends[5:6], number=54)])
        after = {exchange(stack.vip(53), 53)[1] for _ in range(10)}

    assert after == {first}


def test_flows_survive_a_restart(hooked: Hooked, stack: Stack) -> None:
    """R114, R128: every program replaced by another process, twice; both VIPs of a socket."""
    ports = dns(stack, stack.backends), dns(stack, stack.backends, number=54)
    hooked.program_only(*ports)

    with one_socket(hooked, stack) as exchange:
        before = [exchange(stack.vip(vip), 53) for vip in (53, 54)]
        for bind_protection in (True, False):
            hooked.load(bind_protection=bind_protection)
            hooked.program_only(*ports)
        after = [exchange(stack.vip(vip), 53) for vip in (53, 54)]

    assert after == before


def test_two_questions_at_once_are_both_answered(hooked: Hooked, spelling: Stack) -> None:
    """D94: A and AAAA from one socket before either answer; same backend, both seen."""
    hooked.program_only(dns(spelling, spelling.backends[:5]))

    def client() -> list[tuple[object, bytes]]:
        with spelling.udp() as sock:
            destination = spelling.at(spelling.vip(53), 53)
            sock.sendto(b"A", destination)
            sock.sendto(b"AAAA", destination)
            answers = [sock.recvfrom(64) for _ in range(2)]
            return sorted((peer(source), answer) for answer, source in answers)

    seen = hooked.run(client)

    assert [source for source, _ in seen] == [spelling.at(spelling.vip(53), 53)] * 2
    assert [answer.split(b" ")[1] for _, answer in seen] == [b"A", b"AAAA"]
    assert len({backend_in(answer) for _, answer in seen}) == 1


def test_backend_dialled_directly_shows_its_own_address(hooked: Hooked, stack: Stack) -> None:
    """R121 reversed: the application gets what it dialled, VIP or not."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with one_socket(hooked, stack) as exchange:
        through_vip = exchange(stack.vip(53), 53)
        direct = exchange(stack.backends[0], UDP_PORT)
        again = exchange(stack.vip(53), 53)

    assert through_vip == again == (stack.at(stack.vip(53), 53), stack.backends[0])
    assert direct == (stack.at(stack.backends[0], UDP_PORT), stack.backends[0])


def test_disconnected_socket_is_like_one_that_never_was_connected(
    hooked: Hooked, stack: Stack
) -> None:
    """D165: connect to the VIP, AF_UNSPEC; the backend then dialled directly shows itself."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    def client() -> list[object]:
        with stack.udp() as sock:
            seen: list[object] = []
            sock.connect(stack.at(stack.vip(53), 53))
            disconnect(sock)
            for destination in (
                (stack.backends[0], UDP_PORT),
                (stack.vip(53), 53),
                (stack.backends[0], UDP_PORT),
            ):
                sock.sendto(b"?", stack.at(*destination))
                seen.append(peer(sock.recvfrom(64)[1]))
            return seen

    direct, vip = stack.at(stack.backends[0], UDP_PORT), stack.at(stack.vip(53), 53)
    assert hooked.run(client) == [direct, vip, direct]


def test_connected_socket_sends_elsewhere_and_stays_connected(hooked: Hooked, stack: Stack) -> None:
    """D165: sendto(2) its own backend's address; send(2) still goes to the VIP's backend."""
    hooked.program_only(dns(stack, stack.backends[:1]), dns(stack, stack.backends[1:2], number=54))

    def client() -> list[object]:
        with stack.udp() as sock:
            sock.connect(stack.at(stack.vip(53), 53))
            sock.sendto(b"?", stack.at(stack.backends[0], UDP_PORT))
            sock.recv(64)
            sock.sendto(b"?", stack.at(stack.vip(54), 53))  # its answer cannot come here
            sock.send(b"?")
            answer, source = sock.recvfrom(64)
            return [peer(sock.getpeername()), peer(source), backend_in(answer)]

    vip = stack.at(stack.vip(53), 53)
    assert hooked.run(client) == [vip, vip, stack.backends[0]]


def test_further_backend_dialled_directly_shows_its_own_address(
    hooked: Hooked, stack: Stack
) -> None:
    """R121 reversed, for the second VIP of a socket."""
    hooked.program_only(dns(stack, stack.backends[:1]), dns(stack, stack.backends[1:2], number=54))

    with one_socket(hooked, stack) as exchange:
        exchange(stack.vip(53), 53)
        exchange(stack.vip(54), 53)
        direct = exchange(stack.backends[1], UDP_PORT)
        through_vip = exchange(stack.vip(54), 53)

    assert direct == (stack.at(stack.backends[1], UDP_PORT), stack.backends[1])
    assert through_vip == (stack.at(stack.vip(54), 53), stack.backends[1])


@pytest.mark.parametrize("stack", [IPV4, IPV6], ids=lambda stack: stack.name)
def test_sendmmsg_to_two_vips(hooked: Hooked, stack: Stack) -> None:
    """D169: several destinations in one system call."""
    hooked.program_only(dns(stack, stack.backends[:1]), dns(stack, stack.backends[1:2], number=54))

    def client() -> list[tuple[object, str]]:
        with stack.udp() as sock:
            assert sendmmsg(sock, [(stack.vip(53), 53), (stack.vip(54), 53)], b"?") == 2
            answers = [sock.recvfrom(64) for _ in range(2)]
        return sorted((peer(source), backend_in(answer)) for answer, source in answers)

    assert hooked.run(client) == [
        (stack.at(stack.vip(53), 53), stack.backends[0]),
        (stack.at(stack.vip(54), 53), stack.backends[1]),
    ]


class _Iovec(c.Structure):
    _fields_ = (("base", c.c_void_p), ("length", c.c_size_t))


class _Msghdr(c.Structure):
    _fields_ = (
        ("name", c.c_void_p),
        ("namelen", c.c_uint),
        ("iov", c.POINTER(_Iovec)),
        ("iovlen", c.c_size_t),
        ("control", c.c_void_p),
        ("controllen", c.c_size_t),
        ("flags", c.c_int),
    )


class _Mmsghdr(c.Structure):
    _fields_ = (("header", _Msghdr), ("sent", c.c_uint))


def sendmmsg(sock: socket.socket, destinations: list[tuple[str, int]], data: bytes) -> int:
    """sendmmsg(2) of `data` to each destination; how many were sent."""
    buffer = c.create_string_buffer(data)
    vector = _Iovec(c.cast(buffer, c.c_void_p), len(data))
    names = [c.create_string_buffer(sockaddr(*each)) for each in destinations]
    messages = (_Mmsghdr * len(names))()
    for message, name in zip(messages, names, strict=True):
        header = message.header
        header.name, header.namelen = c.cast(name, c.c_void_p), len(name) - 1
        header.iov, header.iovlen = c.pointer(vector), 1
    return int(c.CDLL(None).sendmmsg(sock.fileno(), messages, len(names), 0))


def sockaddr(address: str, port: int) -> bytes:
    if ":" in address:
        raw = socket.inet_pton(socket.AF_INET6, address)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, raw, 0)
    raw = socket.inet_pton(socket.AF_INET, address)
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, raw)
