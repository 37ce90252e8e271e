# SPDX-License-Identifier: Apache-2.0
"""The sweep where the kernel has no iterators: both halves of what is over, others untouched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.support.connection_states import ALIVE, TCP, each_state
from tests.support.hooked import Hooked
from tests.support.sweeping import swept_soon
from vipbee.abi import AddressFlag, ConntrackFlag, MapName
from vipbee.core.connection_age import reply_tuples
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.plan import Op
from vipbee.core.snapshot import Records
from vipbee.datapath import pins
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.loader import load
from vipbee.sweep import INTERVAL_S
from vipbee.sweep_tables import Swept, TableSweep

LAYOUTS = load_layouts()
NOW = 100_000
LIFETIMES = Lifetimes(established_s=7440, transitory_s=240, reset_s=10, udp_s=120)
MANY = 200_000


@pytest.fixture(scope="module")
def tables() -> Iterator[KernelTables]:
    sizes = {name: MANY for name in MapName if name.endswith(("_outside", "_pod"))}
    sizes = {name: size for name, size in sizes.items() if "_new_" not in name}
    with Hooked.up(sizes=sizes, loaded=False) as hooked:
        pins.prepare_root(hooked.bpf_root)
        with pins.exclusive(hooked.bpf_root):
            loaded = load(replace(hooked.request(), packet_lb=True))
        assert loaded.packet_problem == ""
        with KernelTables(loaded.directory, LAYOUTS) as tables:
            yield tables


@pytest.fixture(autouse=True)
def _empty(tables: KernelTables) -> Iterator[None]:
    yield
    for name in (
        MapName.CONNTRACK_OUTSIDE,
        MapName.NAT_OUTSIDE,
        MapName.CONNTRACK_NEW_OUTSIDE,
        MapName.NAT_NEW_OUTSIDE,
        MapName.ADDRESSES,
    ):
        tables.apply(Op(name, tables.read_hash(name)[0], None))


def connections(number: int) -> tuple[Records, Records]:
    """Established TCP connections of as many clients, last seen just now."""
    keys = np.zeros(number, LAYOUTS["flow_tuple"])
    values = np.zeros(number, LAYOUTS["conntrack"])
    keys["source"]["word"] = [0, 0, 0xFFFF, 0xC0000201]
    keys["source"]["word"][:, 3] += np.arange(number, dtype=np.uint32) // 50_000
    keys["source_port"] = 1024 + np.arange(number) % 50_000
    keys["destination"]["word"] = [0, 0, 0xFFFF, 0xCB00710A]
    keys["destination_port"] = 80
    keys["protocol"] = TCP
    values["backend"]["word"] = [0, 0, 0xFFFF, 0x0AF40102]
    values["backend_port"] = 8080
    values["source"] = keys["source"]
    values["source_port"] = keys["source_port"]
    values["client_seen"] = values["backend_seen"] = ALIVE
    values["last_seen"] = NOW
    return keys, values


def put(tables: KernelTables, keys: Records, values: Records) -> Records:
    """Both halves; returns the keys of the reverse ones."""
    replies = reply_tuples(keys, values)
    halves = np.zeros(len(keys), LAYOUTS["nat"])
    halves["original"] = keys
    halves["last_seen"] = values["last_seen"]
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys, values))
    tables.apply(Op(MapName.NAT_OUTSIDE, replies, halves))
    return replies


def sweep(tables: KernelTables, now: int = NOW, *, unfinished: bool = False) -> Swept:
    swept = Swept()
    sweeping = TableSweep(tables, LIFETIMES, clock=lambda: now)
    for _ in sweeping.steps(swept, unfinished=unfinished):
        pass
    return swept


@each_state
def test_an_entry_goes_when_its_lifetime_is_over_and_not_a_second_before(
    tables: KernelTables, protocol: int, client: int, backend: int, lifetime_s: int
) -> None:
    """F62, D68-D91, F61: RFC 5382 and 4787 lifetimes; both halves go together."""
    keys, values = connections(1)
    keys["protocol"] = protocol
    values["client_seen"], values["backend_seen"] = client, backend
    put(tables, keys, values)

    before = sweep(tables, NOW + lifetime_s)
    after = sweep(tables, NOW + lifetime_s + 1)

    assert (before.connections, before.reverse_halves) == (0, 0)
    assert (after.connections, after.reverse_halves) == (1, 1)
    assert len(tables.read_hash(MapName.NAT_OUTSIDE)[0]) == 0


def test_a_reverse_half_that_belongs_to_another_connection_stays(tables: KernelTables) -> None:
    """D101: the tuple was given to somebody else meanwhile."""
    keys, values = connections(2)
    values["last_seen"][0] = NOW - 10_000
    values["backend_port"] = 8080
    values["source"][1], values["source_port"][1] = values["source"][0], values["source_port"][0]
    values["flags"][1] = ConntrackFlag.SOURCE_NAT
    put(tables, keys, values)  # both have one reply tuple: the later entry is there

    swept = sweep(tables)

    assert (swept.connections, swept.reverse_halves) == (1, 0)
    assert len(tables.read_hash(MapName.NAT_OUTSIDE)[0]) == 1


def test_a_reverse_half_without_connection_goes_when_it_is_old(tables: KernelTables) -> None:
    keys, values = connections(3)
    values["last_seen"] = [NOW, NOW - 7441, NOW - 7441]
    put(tables, keys, values)
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys[:2], None))
    # of the third only the backend speaks: its connection lives, so its old half stays
    values["last_seen"][2] = NOW
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys[2:], values[2:]))

    swept = sweep(tables)

    left = tables.read_hash(MapName.NAT_OUTSIDE)[1]["original"]["source_port"]
    assert (swept.connections, swept.reverse_halves) == (0, 1)
    assert sorted(left.tolist()) == sorted(keys["source_port"][[0, 2]].tolist())


def test_a_connection_goes_with_the_address_it_is_sent_from(tables: KernelTables) -> None:
    """D113: replies to an address the node gave up never come back to it.

    What keeps the client's own address does not depend on the node's.
    """
    keys, values = connections(3)
    mine = np.zeros(1, LAYOUTS["address"])
    mine["word"] = [0, 0, 0xFFFF, 0xC6336401]
    tables.apply(Op(MapName.ADDRESSES, mine, np.array([AddressFlag.SNAT], np.uint32)))
    redirected = ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT
    values["flags"] = [redirected, redirected, 0]
    values["source"][0] = mine[0]
    values["source"]["word"][1] = [0, 0, 0xFFFF, 0xC6336402]  # was the node's
    put(tables, keys, values)

    swept = sweep(tables)

    left = tables.read_hash(MapName.CONNTRACK_OUTSIDE)[0]["source_port"]
    assert (swept.connections, swept.reverse_halves) == (1, 1)
    assert sorted(left.tolist()) == sorted(keys["source_port"][[0, 2]].tolist())


def test_unfinished_connections_go_with_their_address_too(tables: KernelTables) -> None:
    """D113: a client that asks again and again would keep its UDP flow alive for ever."""
    keys, values = connections(2)
    values["flags"][0] = ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT
    halves = np.zeros(2, LAYOUTS["nat"])
    halves["original"] = keys
    tables.apply(Op(MapName.CONNTRACK_NEW_OUTSIDE, keys, values))
    tables.apply(Op(MapName.NAT_NEW_OUTSIDE, reply_tuples(keys, values), halves))

    sweep(tables)
    before = len(tables.read_hash(MapName.CONNTRACK_NEW_OUTSIDE)[0])
    sweep(tables, unfinished=True)

    assert before == 2
    for name in (MapName.CONNTRACK_NEW_OUTSIDE, MapName.NAT_NEW_OUTSIDE):
        assert len(tables.read_hash(name)[0]) == 1


class NoIterators:
    """What a kernel without them offers."""

    def are_available(self) -> bool:
        return False

    def open(self, program: str, *, unfinished: bool = False) -> int:
        raise FileNotFoundError(program)


def test_the_agent_walks_the_tables_at_once_when_addresses_change(tables: KernelTables) -> None:
    """D113: it does not wait for its next regular sweep, half a minute away."""
    keys, values = connections(1)
    values["last_seen"] = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    values["flags"] = ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT
    put(tables, keys, values)

    took = swept_soon(NoIterators(), tables, MapName.CONNTRACK_OUTSIDE)

    assert took < INTERVAL_S / 3


def test_a_large_table_is_swept_in_short_steps(tables: KernelTables) -> None:
    """Issue 3 §3, §7: no step keeps the agent from its other work for long."""
    keys, values = connections(MANY)
    values["last_seen"][::100] = NOW - 10_000
    put(tables, keys, values)
    swept, steps = Swept(), []

    for _ in _timed(TableSweep(tables, LIFETIMES, clock=lambda: NOW).steps(swept), steps):
        pass

    assert swept.connections == swept.reverse_halves == MANY // 100
    assert 0.98 < swept.pressure < 1
    assert max(steps) < 0.5  # a loaded machine; some 10 ms otherwise
    print(f"swept {MANY:,} in {sum(steps):.2f} s, longest step {max(steps) * 1e3:.1f} ms")


def _timed(steps: Iterator[None], into: list[float]) -> Iterator[None]:
    while True:
        started = time.perf_counter()
        try:
            next(steps)
        except StopIteration:
            return
        into.append(time.perf_counter() - started)
        yield
