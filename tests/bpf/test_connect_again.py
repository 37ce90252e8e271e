# SPDX-License-Identifier: Apache-2.0
"""Sockets that connect more than once, or talk to several VIPs: D165, R122, R124."""

from __future__ import annotations

import errno
import os
import select
import socket

import pytest

from tests.support.connect_services import program
from tests.support.hooked import Hooked
from tests.support.servers import TCP, TCP_PORT, UDP, UDP_PORT, asked, backend_in, disconnect
from tests.support.stacks import Stack, cluster_ip, peer, service_port


@pytest.fixture(scope="module")
def namespace(namespace_by_storage: Hooked) -> Hooked:
    return namespace_by_storage


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
