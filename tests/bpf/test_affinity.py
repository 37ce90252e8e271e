# SPDX-License-Identifier: Apache-2.0
"""Session affinity at the socket; the client is its network namespace. R61–R67."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from tests.support.dialogue import Answerer, dialogue
from tests.support.hooked import Hooked
from tests.support.servers import TCP, UDP, asked, backend_in
from tests.support.stacks import (
    BOTH,
    CLUSTER,
    DRAINING,
    Stack,
    backend,
    cluster_ip,
    external_ip,
    node_port,
    service_port,
)
from vipbee.abi import MapName
from vipbee.core.plan import Op
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.model import Backend, Frontend, ServicePort
from vipbee.observe.affinity_clients import client_name

TIMEOUT_S = 10800
ENOUGH = 20
"""Connects after which nine backends would have shown up more than once (p < 1e-18)."""


def sticky(
    stack: Stack,
    backends: tuple[str | Backend, ...],
    *,
    name: str = "web",
    number: int = 10,
    protocol: int = TCP,
    frontend: Frontend | tuple[Frontend, ...] | None = None,
    timeout_s: int = TIMEOUT_S,
) -> ServicePort:
    return service_port(
        name,
        frontend or cluster_ip(stack.vip(number), 80, protocol),
        backends,
        family=stack.family,
        affinity_timeout_s=timeout_s,
    )


def chooser(stack: Stack) -> Callable[[], Answerer]:
    """A client: choose(address, port, protocol, times) → the backends it got."""

    def choose(address: str, port: int = 80, protocol: int = TCP, times: int = 1) -> list[str]:
        names = []
        for _ in range(times):
            if protocol == TCP:
                with stack.tcp() as sock:
                    sock.connect(stack.at(address, port))
                    names.append(asked(sock))
            else:
                with stack.udp() as sock:
                    sock.sendto(b"?", stack.at(address, port))
                    names.append(backend_in(sock.recv(64)))
        return names

    return lambda: choose


def age(hooked: Hooked, seconds: float) -> int:
    """Pretend that every affinity entry was last used that much earlier; how many there are."""
    assert hooked.tables is not None
    keys, values = hooked.tables.read_hash(MapName.AFFINITY)
    values = values.copy()
    values["last_used_ns"] -= np.int64(seconds * 1e9).astype(np.uint64)
    hooked.tables.apply(Op(MapName.AFFINITY, keys, values))
    return len(keys)


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["TCP", "UDP"])
def test_client_sticks_to_its_backend(hooked: Hooked, spelling: Stack, protocol: int) -> None:
    """R61: also after its process ended; every hit but the first is counted."""
    hooked.program_only(sticky(spelling, spelling.backends, protocol=protocol))

    names = set()
    for _ in range(2):
        with dialogue(hooked, chooser(spelling)) as choose:
            names |= set(choose(spelling.vip(10), 80, protocol, ENOUGH))

    assert len(names) == 1
    assert hooked.counters("web")["affinity_hits"] == 2 * ENOUGH - 1


def test_the_list_names_the_network_namespace_by_its_cookie(hooked: Hooked, stack: Stack) -> None:
    """R62: as SO_NETNS_COOKIE and BPF programs know it."""
    hooked.program_only(sticky(stack, stack.backends))

    with dialogue(hooked, chooser(stack)) as choose:
        choose(stack.vip(10), 80, TCP, 1)

    assert hooked.tables is not None
    keys, _ = hooked.tables.read_hash(MapName.AFFINITY)
    names = {client_name(key["client_kind"], key["client"].tobytes()) for key in keys}
    assert f"netns:{hooked.run(netns_cookie)}" in names


def test_frontends_of_a_service_port_share_it(hooked: Hooked, stack: Stack) -> None:
    """R62: ClusterIP, external IP and NodePort on the node and on loopback."""
    frontends = (
        cluster_ip(stack.vip(10), 80, TCP),
        external_ip(stack.external(10), 80, TCP),
        node_port(stack.family, 30080, TCP),
    )
    hooked.program_only(sticky(stack, stack.backends, frontend=frontends))

    with dialogue(hooked, chooser(stack)) as choose:
        names = {
            *choose(stack.vip(10), 80, TCP, 5),
            *choose(stack.external(10), 80, TCP, 5),
            *choose(stack.node, 30080, TCP, 5),
            *choose(stack.loopback, 30080, TCP, 5),
        }

    assert len(names) == 1


def test_service_ports_are_independent(hooked: Hooked, stack: Stack) -> None:
    """R62: each of 12 ports chooses for itself; all alike would be 9^-11."""
    ports = range(10, 22)
    hooked.program_only(*(sticky(stack, stack.backends, name=f"web{n}", number=n) for n in ports))

    with dialogue(hooked, chooser(stack)) as choose:
        names = [set(choose(stack.vip(number), 80, TCP, 3)) for number in ports]

    assert all(len(each) == 1 for each in names)
    assert len(set.union(*names)) > 1


def test_network_namespaces_are_clients_of_their_own(hooked: Hooked, stack: Stack) -> None:
    """R62: one entry for the node, one for another namespace (which has no route)."""
    hooked.program_only(sticky(stack, stack.backends))

    with dialogue(hooked, chooser(stack)) as choose:
        choose(stack.vip(10), 80, TCP, 2)

    def elsewhere() -> None:
        with stack.tcp() as sock:
            sock.connect_ex(stack.at(stack.vip(10), 80))

    hooked.run(elsewhere, new_netns=True)

    assert hooked.tables is not None
    keys, _ = hooked.tables.read_hash(MapName.AFFINITY)
    mine = keys[keys["service_id"] == hooked.service_id("web")]
    assert len({key["client"].tobytes() for key in mine}) == 2


def test_first_connections_at_once_agree(hooked: Hooked, stack: Stack) -> None:
    """R61: four threads race for the first choice of each of 30 Services; one wins."""
    numbers = range(10, 40)
    hooked.program_only(*(sticky(stack, stack.backends, name=f"web{n}", number=n) for n in numbers))

    def client() -> list[set[str]]:
        with ThreadPoolExecutor(4) as pool:

            def race(number: int) -> set[str]:
                start = Barrier(4)

                def connect() -> str:
                    with stack.tcp() as sock:
                        start.wait()
                        sock.connect(stack.at(stack.vip(number), 80))
                        return asked(sock)

                return {each.result() for each in [pool.submit(connect) for _ in range(4)]}

            return [race(number) for number in numbers]

    assert [len(names) for names in hooked.run(client)] == [1] * 30


def test_timeout_slides_with_each_connection(hooked: Hooked, stack: Stack) -> None:
    """R63: 0.6 of the timeout idle, twice, with a connection between: still there."""
    hooked.program_only(sticky(stack, stack.backends, timeout_s=1000))

    with dialogue(hooked, chooser(stack)) as choose:
        names = set(choose(stack.vip(10)))
        for _ in range(ENOUGH):
            assert age(hooked, 600) >= 1
            names |= set(choose(stack.vip(10)))

    assert len(names) == 1


def test_idle_client_chooses_afresh(hooked: Hooked, stack: Stack) -> None:
    """R63: past the timeout; 20 fresh choices out of nine backends are not all the same."""
    hooked.program_only(sticky(stack, stack.backends, timeout_s=1000))

    names = set()
    with dialogue(hooked, chooser(stack)) as choose:
        for _ in range(ENOUGH):
            names |= set(choose(stack.vip(10)))
            age(hooked, 1001)

    assert len(names) > 1
    assert hooked.counters("web")["affinity_hits"] == 0


@pytest.mark.parametrize("change", ["deleted", "draining", "out of every set"])
def test_client_fails_over_at_once_and_stays_there(
    hooked: Hooked, stack: Stack, change: str
) -> None:
    """R64: and the backend that returns does not reclaim it."""
    hooked.program_only(sticky(stack, stack.backends))
    flags = {"deleted": 0, "draining": DRAINING, "out of every set": 1}[change]

    with dialogue(hooked, chooser(stack)) as choose:
        (first,) = choose(stack.vip(10))
        rest = tuple(b for b in stack.backends if b != first)
        left = (backend(first, TCP, flags),) if flags else ()
        hooked.program([sticky(stack, (*rest, *left))])
        second = set(choose(stack.vip(10), 80, TCP, ENOUGH))
        hooked.program([sticky(stack, stack.backends)])
        third = set(choose(stack.vip(10), 80, TCP, ENOUGH))

    assert first not in second
    assert len(second) == 1
    assert third == second


def test_entry_used_by_another_cpu_meanwhile_is_not_expired(hooked: Hooked, stack: Stack) -> None:
    """R61: its time stamp is then later than the clock this CPU has read."""
    hooked.program_only(sticky(stack, stack.backends))

    names = set()
    with dialogue(hooked, chooser(stack)) as choose:
        for _ in range(ENOUGH):
            names |= set(choose(stack.vip(10)))
            assert age(hooked, -1) >= 1

    assert len(names) == 1


def test_affinity_goes_and_comes_with_the_service(hooked: Hooked, stack: Stack) -> None:
    """R65: off spreads at once, on sticks at once."""
    hooked.program_only(sticky(stack, stack.backends))

    with dialogue(hooked, chooser(stack)) as choose:
        on = set(choose(stack.vip(10), 80, TCP, ENOUGH))
        hooked.program([sticky(stack, stack.backends, timeout_s=0)])
        off = set(choose(stack.vip(10), 80, TCP, ENOUGH))
        hooked.program([sticky(stack, stack.backends)])
        on_again = set(choose(stack.vip(10), 80, TCP, ENOUGH))

    assert (len(on), len(on_again)) == (1, 1)
    assert len(off) > 1


def test_shorter_timeout_takes_effect_on_old_entries(hooked: Hooked, stack: Stack) -> None:
    """R65"""
    hooked.program_only(sticky(stack, stack.backends, timeout_s=1000))

    with dialogue(hooked, chooser(stack)) as choose:
        choose(stack.vip(10), 80, TCP, 2)
        before = hooked.counters("web")["affinity_hits"]
        age(hooked, 100)
        hooked.program([sticky(stack, stack.backends, timeout_s=60)])
        choose(stack.vip(10))

    assert before == 1
    assert hooked.counters("web")["affinity_hits"] == before


def test_affinity_never_widens_the_set(hooked: Hooked, stack: Stack) -> None:
    """R66: the remembered backend of the Cluster set is not local, and not used."""
    local = tuple(backend(b, TCP, BOTH) for b in stack.backends[:2])
    remote = tuple(backend(b, TCP, CLUSTER) for b in stack.backends[2:])
    frontends = (
        cluster_ip(stack.vip(10), 80, TCP, local=True),
        external_ip(stack.external(10), 80, TCP),
    )
    port = sticky(stack, (*local, *remote), frontend=frontends)
    hooked.program_only(port)

    with dialogue(hooked, chooser(stack)) as choose:
        # make it remember a remote one, which takes 9/2 tries on average
        for _ in range(200):
            (remembered,) = choose(stack.external(10))
            if remembered in stack.backends[2:]:
                break
            age(hooked, TIMEOUT_S + 1)
        through_cluster_ip = set(choose(stack.vip(10), 80, TCP, ENOUGH))

    assert remembered in stack.backends[2:]
    assert through_cluster_ip <= set(stack.backends[:2])
    assert len(through_cluster_ip) == 1


def test_affinity_survives_a_reload(hooked: Hooked, stack: Stack) -> None:
    """R67: another process adopts the maps, with every program replaced."""
    port = sticky(stack, stack.backends)
    hooked.program_only(port)

    with dialogue(hooked, chooser(stack)) as choose:
        before = set(choose(stack.vip(10), 80, TCP, 3))
        hooked.load(bind_protection=True)
        hooked.program_only(port)
        after = set(choose(stack.vip(10), 80, TCP, ENOUGH))
    hooked.load()
    hooked.program_only(dataclasses.replace(port, frontends=()))

    assert len(before) == 1
    assert after == before
