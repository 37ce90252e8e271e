# SPDX-License-Identifier: Apache-2.0
"""Sockets of every kind, raw ones, V6ONLY, SO_REUSEPORT, fast open: R39, R121, D169, D170."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.connect_services import program
from tests.support.hooked import Hooked
from tests.support.servers import TCP, asked
from tests.support.stacks import IPV4, IPV6, MAPPED, Stack, cluster_ip, peer, service_port


@pytest.fixture(scope="module")
def namespace(namespace_by_storage: Hooked) -> Hooked:
    return namespace_by_storage


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
