# SPDX-License-Identifier: Apache-2.0
"""Where TCP flows are kept (bpf/tcp_flow.h): nobody is evicted, nobody is mistaken (R121)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.hooked import Hooked
from tests.support.servers import TCP, asked, disconnect
from tests.support.stacks import Stack, cluster_ip, peer, service_port
from vipbee.abi import MapName
from vipbee.datapath import syscall

PLACES = 65536


@pytest.fixture(scope="module")
def namespace(namespace_by_storage: Hooked) -> Hooked:
    return namespace_by_storage


def write_claims(hooked: Hooked, claims: np.ndarray) -> None:
    fd = hooked.directory.get("maps", MapName.TCP_CLAIMS)
    assert fd is not None
    lines = claims.reshape(-1, 16)
    syscall.map_update_batch(fd, np.arange(len(lines), dtype=np.uint32), lines)


def read_claims(hooked: Hooked) -> np.ndarray:
    fd = hooked.directory.get("maps", MapName.TCP_CLAIMS)
    assert fd is not None
    claims = np.zeros((PLACES // 16, 16), dtype=np.uint32)
    for index in range(len(claims)):
        syscall.map_lookup(fd, np.array([index], dtype=np.uint32), claims[index])
    return claims.reshape(-1)


def one_service(hooked: Hooked, stack: Stack) -> None:
    hooked.program_only(
        service_port(
            "web", cluster_ip(stack.vip(10), 80, TCP), stack.backends[:1], family=stack.family
        )
    )


def test_place_is_free_again_when_its_socket_is_released(hooked: Hooked, stack: Stack) -> None:
    one_service(hooked, stack)
    write_claims(hooked, np.zeros(PLACES, dtype=np.uint32))

    def client() -> list[object]:
        socks = [stack.tcp() for _ in range(50)]
        for sock in socks:
            sock.connect(stack.at(stack.vip(10), 80))
        return [peer(sock.getpeername()) for sock in socks]

    seen = hooked.run(client)

    assert seen == [stack.at(stack.vip(10), 80)] * 50
    assert not read_claims(hooked).any()
    counters = hooked.counters("web")
    assert (counters["opened"], counters["closed"]) == (50, 50)


def test_socket_whose_place_is_taken_is_served_all_the_same(hooked: Hooked, stack: Stack) -> None:
    """Every place taken: flows live in socket storage, and are counted and released too."""
    one_service(hooked, stack)
    taken = np.ones(PLACES, dtype=np.uint32)
    write_claims(hooked, taken)

    def client() -> list[object]:
        with stack.tcp() as sock:
            sock.connect(stack.at(stack.vip(10), 80))
            asked(sock)
            first = peer(sock.getpeername())
            disconnect(sock)
            sock.connect(stack.at(stack.vip(10), 80))
            second = peer(sock.getpeername())
            disconnect(sock)
            sock.connect(stack.at(stack.backends[0], 8080))
            return [first, second, peer(sock.getpeername())]

    seen = hooked.run(client)
    left = read_claims(hooked)
    write_claims(hooked, np.zeros(PLACES, dtype=np.uint32))

    vip = stack.at(stack.vip(10), 80)
    assert seen == [vip, vip, stack.at(stack.backends[0], 8080)]
    assert np.array_equal(left, taken)
    counters = hooked.counters("web")
    assert (counters["opened"], counters["closed"]) == (2, 2)


def test_address_filter_that_was_lost_is_renewed(hooked: Hooked, stack: Stack) -> None:
    """R130: without its bits no VIP is looked for."""
    one_service(hooked, stack)
    assert hooked.tables is not None
    fd = hooked.directory.get("maps", MapName.ADDRESS_FILTER)
    assert fd is not None
    words = np.arange(1 << 14, dtype=np.uint32)
    syscall.map_update_batch(fd, words, np.zeros(len(words), dtype=np.uint64))

    hooked.tables.renew_address_filter()

    def client() -> object:
        with stack.tcp() as sock:
            sock.connect(stack.at(stack.vip(10), 80))
            return peer(sock.getpeername())

    assert hooked.run(client) == stack.at(stack.vip(10), 80)
    assert hooked.tables.read_array(MapName.ADDRESS_FILTER).any()
