# SPDX-License-Identifier: Apache-2.0
"""The sweep in the kernel: by lifetime only, both halves, others untouched, in short steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.support.connection_states import ALIVE, FIN, RST, TCP, UDP, each_state
from tests.support.hooked import Hooked
from tests.support.sweeping import swept_soon
from vipbee.abi import AddressFlag, BackendFlag, ConntrackFlag, MapName
from vipbee.core.connection_age import reply_tuples
from vipbee.core.plan import Op
from vipbee.core.snapshot import Records
from vipbee.datapath import pins
from vipbee.datapath.features import probe_features
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.loader import load
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.sweep_iterators import STEP_ELEMENTS, read_sweep
from vipbee.datapath.sweeps import Sweeps
from vipbee.sweep import INTERVAL_S, sweep_in_kernel
from vipbee.sweep_tables import Swept

LAYOUTS = load_layouts()
MANY = 100_000
SERVICE, BACKEND, GENERATION = 3, 5, 7
ZONES = [
    (MapName.CONNTRACK_OUTSIDE, MapName.NAT_OUTSIDE),
    (MapName.CONNTRACK_POD, MapName.NAT_POD),
]


@pytest.fixture(scope="module")
def swept_node() -> Iterator[tuple[PinDirectory, KernelTables]]:
    if not probe_features().sweep_iterators:
        pytest.skip("this kernel has, or allows, no iterator over the elements of a map")
    sizes = {name: MANY for zone in ZONES for name in zone}
    with Hooked.up(sizes=sizes, loaded=False) as hooked:
        pins.prepare_root(hooked.bpf_root)
        with pins.exclusive(hooked.bpf_root):
            loaded = load(replace(hooked.request(), packet_lb=True))
        assert loaded.packet_problem == ""
        with KernelTables(loaded.directory, LAYOUTS) as tables:
            yield loaded.directory, tables


@pytest.fixture
def directory(swept_node: tuple[PinDirectory, KernelTables]) -> PinDirectory:
    return swept_node[0]


@pytest.fixture
def tables(swept_node: tuple[PinDirectory, KernelTables]) -> Iterator[KernelTables]:
    tables = swept_node[1]
    backend = np.zeros(1, LAYOUTS["backend"])
    backend["service_id"], backend["generation"] = SERVICE, GENERATION
    backend["flags"] = BackendFlag.SERVING
    tables.apply(Op(MapName.BACKENDS, np.array([BACKEND], np.uint32), backend))
    for name, layout in (
        (MapName.SERVICE_COUNTERS, "service_counters"),
        (MapName.BACKEND_COUNTERS, "backend_counters"),
    ):
        number = SERVICE if name == MapName.SERVICE_COUNTERS else BACKEND
        key = np.array([number], np.uint32)
        tables.apply(Op(name, key, np.zeros(1, LAYOUTS[layout])))
    yield tables
    for name in (*(name for zone in ZONES for name in zone), MapName.ADDRESSES):
        tables.apply(Op(name, tables.read_hash(name)[0], None))


def now_s() -> int:
    return int(time.clock_gettime(time.CLOCK_MONOTONIC))


def connections(number: int, age_s: int = 0) -> tuple[Records, Records]:
    """Established TCP connections of as many clients, last seen so long ago."""
    keys = np.zeros(number, LAYOUTS["flow_tuple"])
    values = np.zeros(number, LAYOUTS["conntrack"])
    keys["source"]["word"][:, 2:] = [0xFFFF, 0x64400000]
    keys["source"]["word"][:, 3] += (np.arange(number) // 50_000).astype(np.uint32)
    keys["source_port"] = 1024 + np.arange(number) % 50_000
    keys["destination"]["word"] = [0, 0, 0xFFFF, 0xCB00710A]
    keys["destination_port"] = 80
    keys["protocol"] = TCP
    values["backend"]["word"] = [0, 0, 0xFFFF, 0x0AF40102]
    values["backend_port"] = 8080
    values["source"], values["source_port"] = keys["source"], keys["source_port"]
    values["client_seen"] = values["backend_seen"] = ALIVE
    values["service_id"], values["backend_id"] = SERVICE, BACKEND
    values["generation"] = GENERATION
    values["last_seen"] = last_seen(age_s)
    return keys, values


def last_seen(age_s: int) -> int:
    """The machine may not have run so long: the clock is compared modulo 2³²."""
    return (now_s() - age_s) & 0xFFFFFFFF


def put(tables: KernelTables, keys: Records, values: Records, zone: int = 0) -> Records:
    """Both halves; returns the keys of the reverse ones."""
    conntrack, nat = ZONES[zone]
    replies = reply_tuples(keys, values)
    halves = np.zeros(len(keys), LAYOUTS["nat"])
    halves["original"] = keys
    halves["last_seen"] = values["last_seen"]
    tables.apply(Op(conntrack, keys, values))
    tables.apply(Op(nat, replies, halves))
    return replies


def removed(swept: Swept) -> tuple[int, int]:
    return swept.connections, swept.reverse_halves


def closed(tables: KernelTables) -> tuple[int, int]:
    return (
        int(tables.read_array(MapName.SERVICE_COUNTERS)["closed"][SERVICE]),
        int(tables.read_array(MapName.BACKEND_COUNTERS)["closed"][BACKEND]),
    )


@pytest.mark.parametrize("zone", [0, 1])
@each_state
def test_an_entry_goes_when_its_lifetime_is_over_and_not_before(
    directory: PinDirectory,
    tables: KernelTables,
    zone: int,
    protocol: int,
    client: int,
    backend: int,
    lifetime_s: int,
) -> None:
    """D68-D91, D112, F61: both halves go together, and nothing of the others.

    Five seconds to either side, as this clock runs on while the test does.
    """
    keys, values = connections(2)
    keys["protocol"] = protocol
    values["client_seen"], values["backend_seen"] = client, backend
    values["last_seen"] = [last_seen(lifetime_s - 5), last_seen(lifetime_s + 5)]
    put(tables, keys, values, zone)

    swept = sweep_in_kernel(Sweeps(directory), tables)

    assert removed(swept) == (1, 1)
    for name in ZONES[zone]:
        left, _ = tables.read_hash(name)
        assert len(left) == 1
    assert tables.read_hash(ZONES[zone][0])[0].tobytes() == keys[:1].tobytes()


def test_an_open_connection_that_is_forgotten_counts_as_closed_once(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """Those that were finished or reset, and UDP, were counted when that happened."""
    keys, values = connections(4, age_s=10_000)
    keys["protocol"][3] = UDP
    values["backend_seen"][1:3] = [FIN, RST]
    values["client_seen"][1] = FIN
    put(tables, keys, values)

    assert removed(sweep_in_kernel(Sweeps(directory), tables)) == (4, 4)
    assert closed(tables) == (1, 1)


def test_the_counter_of_a_backend_whose_id_was_given_away_is_left_alone(
    directory: PinDirectory, tables: KernelTables
) -> None:
    keys, values = connections(1, age_s=10_000)
    values["generation"] = GENERATION - 1
    put(tables, keys, values)

    sweep_in_kernel(Sweeps(directory), tables)

    assert closed(tables) == (1, 0)


def test_a_reverse_half_that_belongs_to_another_connection_stays(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """D101: the tuple was given to somebody else meanwhile."""
    keys, values = connections(2)
    values["last_seen"][0] = last_seen(10_000)
    values["source"][1], values["source_port"][1] = values["source"][0], values["source_port"][0]
    values["flags"][1] = ConntrackFlag.SOURCE_NAT
    put(tables, keys, values)  # both have one reply tuple: the later entry is there

    assert removed(sweep_in_kernel(Sweeps(directory), tables)) == (1, 0)
    assert len(tables.read_hash(MapName.NAT_OUTSIDE)[0]) == 1


def test_a_reverse_half_without_connection_goes_when_it_is_old(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """D111: halves by age only; a connection that only its backend keeps has an old one."""
    keys, values = connections(3)
    values["last_seen"][1:] = last_seen(7500)
    put(tables, keys, values)
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys[:2], None))
    values["last_seen"][2] = last_seen(0)
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys[2:], values[2:]))

    assert removed(sweep_in_kernel(Sweeps(directory), tables)) == (0, 1)
    left = tables.read_hash(MapName.NAT_OUTSIDE)[1]["original"]["source_port"]
    assert sorted(left.tolist()) == sorted(keys["source_port"][[0, 2]].tolist())


def test_a_connection_goes_with_the_address_it_is_sent_from(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """D113: replies to an address the node gave up never come back to it.

    What keeps the client's own address does not depend on the node's.
    """
    keys, values = connections(3)
    mine = np.zeros(1, LAYOUTS["address"])
    mine["word"] = [0, 0, 0xFFFF, 0xC0000201]
    tables.apply(Op(MapName.ADDRESSES, mine, np.array([AddressFlag.SNAT], np.uint32)))
    redirected = ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT
    values["flags"] = [redirected, redirected, 0]
    values["source"][0] = mine[0]
    values["source"]["word"][1] = [0, 0, 0xFFFF, 0xC0000202]  # was the node's
    put(tables, keys, values)

    assert removed(sweep_in_kernel(Sweeps(directory), tables)) == (1, 1)
    left = tables.read_hash(MapName.CONNTRACK_OUTSIDE)[0]["source_port"]
    assert sorted(left.tolist()) == sorted(keys["source_port"][[0, 2]].tolist())


def test_unfinished_connections_go_with_their_address_too(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """D113: a client that asks again and again would keep its UDP flow alive for ever."""
    keys, values = connections(2)
    values["flags"][0] = ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT
    halves = np.zeros(2, LAYOUTS["nat"])
    halves["original"] = keys
    tables.apply(Op(MapName.CONNTRACK_NEW_OUTSIDE, keys, values))
    tables.apply(Op(MapName.NAT_NEW_OUTSIDE, reply_tuples(keys, values), halves))

    sweep_in_kernel(Sweeps(directory), tables)
    before = len(tables.read_hash(MapName.CONNTRACK_NEW_OUTSIDE)[0])
    sweep_in_kernel(Sweeps(directory), tables, unfinished=True)

    assert before == 2
    for name in (MapName.CONNTRACK_NEW_OUTSIDE, MapName.NAT_NEW_OUTSIDE):
        assert len(tables.read_hash(name)[0]) == 1
    assert closed(tables) == (0, 0)


def test_every_connection_of_a_full_table_is_met_once(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """Issue 3 §3: in steps, of which none is larger than its number of elements."""
    keys, values = connections(MANY)
    put(tables, keys, values)

    steps = [len(s) for s in read_sweep(Sweeps(directory).open("vipbee_sweep_outside"))]
    swept = sweep_in_kernel(Sweeps(directory), tables)

    assert sum(steps) == swept.seen == MANY
    assert max(steps) <= STEP_ELEMENTS
    assert swept.pressure == 1
    assert removed(swept) == (0, 0)


def test_a_table_in_which_all_is_over_is_empty_after_two_sweeps(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """What stands behind a removed element in its bucket may be left to the next one."""
    put(tables, *connections(MANY, age_s=10_000))

    first, second = (
        sweep_in_kernel(Sweeps(directory), tables),
        sweep_in_kernel(Sweeps(directory), tables),
    )

    assert first.connections > 0.98 * MANY
    assert first.connections + second.connections == MANY
    assert closed(tables) == (MANY, MANY)
    assert len(tables.read_hash(MapName.CONNTRACK_OUTSIDE)[0]) == 0
    assert len(tables.read_hash(MapName.NAT_OUTSIDE)[0]) == 0


def test_the_agent_sweeps_at_once_when_addresses_change(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """D113: it does not wait for its next regular sweep, half a minute away."""
    keys, values = connections(1)
    values["flags"] = ConntrackFlag.SOURCE_NAT | ConntrackFlag.REDIRECT
    put(tables, keys, values)

    took = swept_soon(Sweeps(directory), tables, MapName.CONNTRACK_OUTSIDE)

    assert took < INTERVAL_S / 3


def test_where_the_iterators_are_missing_the_tables_are_walked(
    directory: PinDirectory, tables: KernelTables
) -> None:
    """F47: kernels without BTF. The last test: the pin is gone afterwards."""
    directory.remove("programs", "vipbee_sweep_pod")
    put(tables, *connections(1, age_s=10_000))

    swept_soon(Sweeps(directory), tables, MapName.CONNTRACK_OUTSIDE)

    assert len(tables.read_hash(MapName.NAT_OUTSIDE)[0]) == 0
