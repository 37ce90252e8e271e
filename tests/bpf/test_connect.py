# SPDX-License-Identifier: Apache-2.0
"""connect(2) through a VIP: who is chosen, what the application sees: R33, R34, R59, R121, D162.

Several times: test_connect_again.py. By unusual sockets: test_connect_sockets.py.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter

import pytest

from tests.support.connect_services import program
from tests.support.dialogue import Answerer, dialogue
from tests.support.hooked import Hooked
from tests.support.servers import TCP, UDP, asked, backend_in
from tests.support.stacks import Stack, cluster_ip, peer, service_port


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
