# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets whose backend stopped serving are released: R110–R114, D164."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.dialogue import Answerer, dialogue
from tests.support.hooked import Hooked
from tests.support.servers import TCP, UDP, UDP_PORT, asked, backend_in, disconnect
from tests.support.stacks import (
    DRAINING,
    NODE_ADDRESSES,
    Stack,
    backend,
    cluster_ip,
    peer,
    service_port,
)
from vipbee.datapath.features import probe_features
from vipbee.datapath.release import release_stale_sockets
from vipbee.model import ServicePort


@pytest.fixture(scope="module", params=["iterators", "sock_diag", "each namespace"])
def namespace(request: pytest.FixtureRequest, as_root: None) -> Iterator[Hooked]:
    """Found in all namespaces at once, or looked for in each; released by the kernel's own
    iterator (6.5), or through SOCK_DESTROY below."""
    features = probe_features()
    finds, releases = request.param != "each namespace", request.param != "sock_diag"
    if finds and not features.stale_iterator:
        pytest.skip("this kernel has, or allows, no iterator over socket storage")
    if releases and not features.release_iterator:
        pytest.skip("this kernel has no bpf_sock_destroy()")
    features = dataclasses.replace(features, stale_iterator=finds, release_iterator=releases)
    with Hooked.up(features=features) as up:
        up.serve()
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


def dns(stack: Stack, backends: object, *, number: int = 53) -> ServicePort:
    frontend = cluster_ip(stack.vip(number), 53, UDP)
    return service_port(f"dns{number}", frontend, backends, family=stack.family)  # type: ignore[arg-type]


def release(hooked: Hooked) -> int:
    return release_stale_sockets(hooked.directory)


@contextlib.contextmanager
def connected(
    hooked: Hooked, stack: Stack, number: int = 53, *, new_netns: bool = False
) -> Iterator[Answerer]:
    """One socket connected to a VIP: "ask" → backend name, or the errno; "connect" again;
    "sendto" the VIP by its name, although connected;
    "error" → SO_ERROR, as a blocked recv() would have reported it."""

    def client() -> Answerer:
        if new_netns:
            length = 32 if stack.family == 4 else 128
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in stack.backends[:3]:
                subprocess.run(
                    ["ip", "addr", "add", f"{address}/{length}", "dev", "lo"], check=True
                )
        sock = stack.udp()

        def act(action: str) -> object:
            if action == "connect":
                sock.connect(stack.at(stack.vip(number), 53))
                return peer(sock.getpeername())
            if action == "sendto":
                return sock.sendto(b"?", stack.at(stack.vip(number), 53))
            if action == "error":
                return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            try:
                sock.send(b"?")
                return backend_in(sock.recv(64))
            except OSError as error:
                return error.errno

        act("connect")
        return act

    with dialogue(hooked, client, new_netns=new_netns) as act:
        yield act


def keep_capabilities(*bits: int) -> None:
    """Give up every other capability of this process, by capset(2)."""
    mask = sum(1 << bit for bit in bits)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", 0x20080522, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    if ctypes.CDLL(None).capset(header, data):
        raise OSError("capset")


def test_released_socket_reaches_a_live_backend_after_connect(
    hooked: Hooked, spelling: Stack
) -> None:
    """R111, D164: told once with ECONNABORTED, then the application connects again."""
    hooked.program_only(dns(spelling, spelling.backends[:1]))

    with connected(hooked, spelling) as act:
        before = act("ask")
        hooked.program([dns(spelling, spelling.backends[1:2])])
        released = release(hooked)
        told = act("error")
        unconnected = act("ask")
        seen = act("connect")
        after = act("ask")

    assert released == 1
    assert (before, after) == (spelling.backends[0], spelling.backends[1])
    assert (told, unconnected) == (errno.ECONNABORTED, errno.EDESTADDRREQ)
    assert seen == spelling.at(spelling.vip(53), 53)


def test_deleted_service_releases_its_sockets(hooked: Hooked, stack: Stack) -> None:
    """R113"""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with connected(hooked, stack) as act:
        act("ask")
        hooked.program_only()
        released = release(hooked)
        told = act("error")

    assert (released, told) == (1, errno.ECONNABORTED)


def test_socket_of_another_namespace_is_released(hooked: Hooked, stack: Stack) -> None:
    """R111: a pod's socket, in a namespace that only its process holds."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with connected(hooked, stack, new_netns=True) as far, connected(hooked, stack) as near:
        hooked.program([dns(stack, stack.backends[1:2])])
        released = release(hooked)
        seen = far("connect"), near("connect")
        again = release(hooked)

    assert (released, again) == (2, 0)
    assert seen == (stack.at(stack.vip(53), 53),) * 2


def test_serving_backends_keep_their_sockets(hooked: Hooked, stack: Stack) -> None:
    """R110: draining, but still serving."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with connected(hooked, stack) as act:
        draining = backend(stack.backends[0], UDP, DRAINING)
        hooked.program([dns(stack, [draining, stack.backends[1]])])
        released = release(hooked)
        after = act("ask")

    assert released == 0
    assert after == stack.backends[0]


def test_nothing_else_is_touched(hooked: Hooked, stack: Stack) -> None:
    """R114: another Service on the same backends, TCP of the same Service's backends,
    direct sockets, and sockets of nobody's."""
    web = service_port(
        "web", cluster_ip(stack.vip(10), 80, TCP), stack.backends[:1], family=stack.family
    )
    hooked.program_only(
        dns(stack, stack.backends[:1]), dns(stack, stack.backends[:1], number=54), web
    )

    def bystanders() -> Answerer:
        tcp, direct = stack.tcp(), stack.udp()
        tcp.connect(stack.at(stack.vip(10), 80))
        asked(tcp)
        direct.connect(stack.at(stack.backends[0], UDP_PORT))

        def use() -> tuple[bytes, str]:
            tcp.sendall(b"still here")
            direct.send(b"?")
            return tcp.recv(64), backend_in(direct.recv(64))

        return use

    with (
        connected(hooked, stack) as stale,
        connected(hooked, stack, 54) as other,
        dialogue(hooked, bystanders) as use,
    ):
        hooked.program(
            [
                dns(stack, stack.backends[1:2]),
                service_port(
                    "web",
                    cluster_ip(stack.vip(10), 80, TCP),
                    stack.backends[1:2],
                    family=stack.family,
                ),
            ]
        )
        released = release(hooked)
        used = use()
        other_name = other("ask")
        told = stale("error")

    assert released == 1
    assert used == (b"still here", stack.backends[0])
    assert other_name == stack.backends[0]
    assert told == errno.ECONNABORTED


def test_several_sockets_of_one_backend_are_all_released(hooked: Hooked, stack: Stack) -> None:
    """R111"""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with contextlib.ExitStack() as many:
        clients = [many.enter_context(connected(hooked, stack)) for _ in range(5)]
        hooked.program([dns(stack, stack.backends[1:2])])
        released = release(hooked)
        for client in clients:
            client("error")
            client("connect")
        after = {client("ask") for client in clients}

    assert released == 5
    assert after == {stack.backends[1]}


def test_socket_that_disconnected_is_left_alone(hooked: Hooked, stack: Stack) -> None:
    """R114: it is not connected to the VIP any more, so it has nothing to be released from."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    def client() -> Answerer:
        sock = stack.udp()
        sock.connect(stack.at(stack.vip(53), 53))
        disconnect(sock)

        def act() -> tuple[int, str]:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # the same peer: the kernel lets a disconnected IPv6 socket hear no other
            sock.sendto(b"?", stack.at(stack.backends[0], UDP_PORT))
            return error, backend_in(sock.recv(64))

        return act

    with dialogue(hooked, client) as act:
        hooked.program([dns(stack, stack.backends[1:2])])
        released = release(hooked)
        after = act()

    assert released == 0
    assert after == (0, stack.backends[0])


def test_without_the_right_to_enter_namespaces_only_the_own_one_is_served(
    hooked: Hooked, stack: Stack
) -> None:
    """R111 as far as CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN go; and no error beyond."""

    def release_with_few_rights() -> int:
        keep_capabilities(12, 38, 39)
        return release(hooked)

    hooked.program_only(dns(stack, stack.backends[:1]))

    with connected(hooked, stack, new_netns=True), connected(hooked, stack) as near:
        hooked.program([dns(stack, stack.backends[1:2])])
        released = hooked.run(release_with_few_rights)
        told = near("error")
        left = release(hooked)

    assert (released, told, left) == (1, errno.ECONNABORTED, 1)


def test_sendto_on_a_connected_socket_does_not_hide_that_its_backend_went(
    hooked: Hooked, stack: Stack
) -> None:
    """R111, D164: the datagram is balanced anew, the connection still has to be released."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with connected(hooked, stack) as act:
        hooked.program([dns(stack, stack.backends[1:2])])
        act("sendto")
        released = release(hooked)

    assert released == 1


def test_nothing_to_do(hooked: Hooked, stack: Stack) -> None:
    """Live flows only; and after a release, though the owner has neither closed nor connected."""
    hooked.program_only(dns(stack, stack.backends[:1]))

    with connected(hooked, stack) as act:
        first = release(hooked)
        hooked.program([dns(stack, stack.backends[1:2])])
        second = release(hooked)
        third = release(hooked)
        act("connect")

    assert (first, second, third) == (0, 1, 0)
