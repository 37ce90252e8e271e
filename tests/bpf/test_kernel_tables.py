# SPDX-License-Identifier: Apache-2.0
"""KernelTables against MemoryTables, damage and live readers: F35–F38, F57, R32, R130."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.golden.test_golden import CAPACITY, FEATURES, Cluster, steps_of
from tests.support.hooked import Hooked
from tests.support.servers import TCP
from tests.support.stacks import NODE_ADDRESSES, Stack, cluster_ip, node_port, service_port
from tests.support.stream import connecting
from vipbee.abi import MapName
from vipbee.core.desired import Desired
from vipbee.core.dump import dump
from vipbee.core.plan import Op
from vipbee.core.snapshot import Snapshot
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.memory import MemoryTables
from vipbee.errors import CapacityError, EnvironmentUnusable
from vipbee.model import ServiceName, ServicePort
from vipbee.reconcile import NodeSettings, Reconciler

SMALL = {
    "frontends": CAPACITY.frontends,
    "addresses": CAPACITY.addresses,
    "slots": CAPACITY.slots,
    "backends": CAPACITY.backends,
    "backend_counters": CAPACITY.backends,
    "services": CAPACITY.services,
    "service_counters": CAPACITY.services,
}


class Both:
    """Tables that write to the kernel and to memory, and read from the kernel."""

    def __init__(self, kernel: KernelTables, memory: MemoryTables) -> None:
        self.kernel, self.memory = kernel, memory

    def apply(self, op: Op) -> None:
        self.kernel.apply(op)
        self.memory.apply(op)

    def snapshot(self) -> Snapshot:
        return self.kernel.snapshot()


@pytest.fixture(scope="module")
def small(as_root: None) -> Iterator[Hooked]:
    """As large as the tables of the golden tests."""
    with Hooked.up(sizes=SMALL) as up:
        yield up


@pytest.fixture
def tables(small: Hooked) -> KernelTables:
    """Empty."""
    assert small.tables is not None
    empty(small.tables, small)
    return small.tables


def empty(tables: KernelTables, hooked: Hooked) -> None:
    for operation in Desired(hooked.layouts, tables.capacity).audit(tables.snapshot()):
        tables.apply(operation)


def some_ports(stack: Stack, count: int = 8) -> list[ServicePort]:
    return [
        service_port(
            f"web{number}",
            (
                cluster_ip(stack.vip(number), 80, TCP, local=number % 2 == 0),
                node_port(stack.family, 30000 + number, TCP),
            ),
            stack.backends[number % 3 : 3 + number % 5],
            family=stack.family,
            affinity_timeout_s=number % 3 * 100,
        )
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_kernel_holds_what_memory_holds(small: Hooked, tables: KernelTables, path: Path) -> None:
    """Every golden feature, after each step; planned on what the kernel gave back."""
    cluster = Cluster()
    both = Both(tables, cluster.tables.memory)
    settings = NodeSettings("node-a", "0.0.0.0/0,::/0")
    cluster.reconciler = Reconciler(both, small.layouts, tables.capacity, settings)

    for step in steps_of(path):
        cluster.take(step)

        assert dump(tables.snapshot()) == dump(cluster.tables.memory.snapshot()), step["step"]
        assert cluster.reconciler.audit().entries == 0


def frontend_puts(hooked: Hooked, count: int) -> Op:
    keys = np.zeros(count, hooked.layouts["frontend_key"])
    keys["port"] = np.arange(1, count + 1)
    values = np.zeros(count, hooked.layouts["frontend"])
    values["service_id"] = np.arange(1, count + 1)
    return Op(MapName.FRONTENDS, keys, values)


@pytest.mark.parametrize("surplus", [1, 7])
def test_full_hash_refuses_as_memory_does(
    small: Hooked, tables: KernelTables, surplus: int
) -> None:
    """F35, F36: by name, with how many are missing; those before stay written."""
    memory = MemoryTables(small.layouts, CAPACITY)
    operation = frontend_puts(small, CAPACITY.frontends + surplus)

    with pytest.raises(CapacityError) as from_kernel:
        tables.apply(operation)
    with pytest.raises(CapacityError) as from_memory:
        memory.apply(operation)

    assert str(from_kernel.value) == str(from_memory.value)
    assert from_kernel.value.needed == surplus
    ports = sorted(tables.snapshot().frontend_keys["port"].tolist())
    assert ports == list(range(1, CAPACITY.frontends + 1))


def test_full_hash_takes_an_update_of_what_is_there(small: Hooked, tables: KernelTables) -> None:
    """F35"""
    operation = frontend_puts(small, CAPACITY.frontends)
    tables.apply(operation)

    assert operation.values is not None
    operation.values["affinity_timeout_s"] = 60
    tables.apply(operation)

    assert set(tables.snapshot().frontends["affinity_timeout_s"].tolist()) == {60}


def test_delete_passes_over_what_is_gone(small: Hooked, tables: KernelTables) -> None:
    """F36: a batch stops at an absent key, the operation does not."""
    operation = frontend_puts(small, 40)
    tables.apply(operation)
    tables.apply(Op(MapName.FRONTENDS, operation.keys[:38:3], None))

    tables.apply(Op(MapName.FRONTENDS, operation.keys[:39], None))

    assert tables.snapshot().frontend_keys["port"].tolist() == [40]


def test_index_beyond_an_array_is_refused(tables: KernelTables) -> None:
    """F36: and the entries before it are written (the kernel says E2BIG, as for a full hash)."""
    keys = np.array([1, 2, CAPACITY.slots], np.uint32)

    with pytest.raises(CapacityError):
        tables.apply(Op(MapName.SLOTS, keys, np.array([11, 12, 13], np.uint32)))

    assert tables.read_array(MapName.SLOTS)[:4].tolist() == [0, 11, 12, 0]


def test_missing_pin_is_named(as_root: None) -> None:
    with Hooked.up() as hooked:
        hooked.directory.remove("maps", "reports")

        with pytest.raises(EnvironmentUnusable, match="reports"):
            KernelTables(hooked.directory, hooked.layouts)


def test_large_sparse_arrays_are_read_whole(as_root: None) -> None:
    """First, last, both sides of every power of two: nothing lost, nothing shifted."""
    entries = 3_000_000
    sizes = {"slots": entries, "backends": entries // 4}
    with Hooked.up(sizes=sizes) as hooked:
        assert hooked.tables is not None
        borders = [0, entries - 1, *(2**n + d for n in range(21) for d in (-1, 0))]
        indices = np.unique(np.array(borders, np.uint32))
        hooked.tables.apply(Op(MapName.SLOTS, indices, indices + np.uint32(1)))
        backend_ids = indices[indices < entries // 4]
        values = np.zeros(len(backend_ids), hooked.layouts["backend"])
        values["service_id"], values["flags"] = backend_ids + 1, 1
        hooked.tables.apply(Op(MapName.BACKENDS, backend_ids, values))

        snapshot = hooked.tables.snapshot()

    assert (len(snapshot.slots), len(snapshot.backends)) == (entries, entries // 4)
    assert np.flatnonzero(snapshot.slots).tolist() == indices.tolist()
    assert snapshot.slots[indices].tolist() == (indices + 1).tolist()
    assert np.flatnonzero(snapshot.backends["flags"]).tolist() == backend_ids.tolist()
    assert snapshot.backends[backend_ids]["service_id"].tolist() == (backend_ids + 1).tolist()


def damage(hooked: Hooked, random_: random.Random) -> None:
    """Somebody else writes to our maps: wrong, missing and foreign entries."""
    tables = hooked.tables
    assert tables is not None
    snapshot = tables.snapshot()
    hurt = [random_.randrange(64) for _ in range(10)]
    slots = np.array(hurt, np.uint32)
    tables.apply(Op(MapName.SLOTS, slots, np.array([random_.randrange(99) for _ in hurt], "u4")))
    values = snapshot.backends[slots].copy()
    values["port"] = random_.randrange(65536)
    values["flags"][::2] = 0
    tables.apply(Op(MapName.BACKENDS, slots, values))
    for name, keys, all_values in (
        (MapName.FRONTENDS, snapshot.frontend_keys, snapshot.frontends),
        (MapName.ADDRESSES, snapshot.address_keys, snapshot.addresses),
        (MapName.SERVICES, snapshot.service_ids, snapshot.services),
    ):
        some = random_.sample(range(len(keys)), min(4, len(keys)))
        tables.apply(Op(name, keys[some[:2]], None))
        exchanged = all_values[some[2:]][::-1]
        tables.apply(Op(name, keys[some[2:]], np.ascontiguousarray(exchanged)))
    foreign = frontend_puts(hooked, random_.randrange(1, 20))
    tables.apply(foreign)


@pytest.mark.parametrize("seed", range(10))
def test_audit_repairs_whatever_was_damaged(hooked: Hooked, stack: Stack, seed: int) -> None:
    """R130, F37, F57"""
    hooked.program_only(*some_ports(stack), node_addresses=NODE_ADDRESSES)
    assert hooked.tables is not None
    assert hooked.desired is not None
    before = dump(hooked.tables.snapshot())

    damage(hooked, random.Random(seed))
    damaged = dump(hooked.tables.snapshot())
    hooked.audit()

    assert damaged != before
    assert dump(hooked.tables.snapshot()) == before
    assert hooked.audit() == 0


def test_renewed_address_filter_shows_vips_again(hooked: Hooked, stack: Stack) -> None:
    """R130, F57: a cleared bit hides a VIP from every hook; each audit of the agent renews them."""
    hooked.program_only(*some_ports(stack), node_addresses=NODE_ADDRESSES)
    assert hooked.tables is not None
    words = hooked.tables.max_entries(MapName.ADDRESS_FILTER)
    keys = np.arange(words, dtype=np.uint32)
    hooked.tables.renew_address_filter()  # without bits of addresses that are gone
    shown = hooked.tables.read_array(MapName.ADDRESS_FILTER)

    hooked.tables.apply(Op(MapName.ADDRESS_FILTER, keys, np.zeros(words, dtype=np.uint64)))
    hidden = hooked.tables.read_array(MapName.ADDRESS_FILTER)
    hooked.tables.renew_address_filter()

    assert not hidden.any()
    assert shown.any()
    assert np.array_equal(hooked.tables.read_array(MapName.ADDRESS_FILTER), shown)


def test_only_endpoint_is_replaced_under_connects(hooked: Hooked, stack: Stack) -> None:
    """R32, F38: 300 times, and not one connect fails."""

    def web(turn: int) -> ServicePort:
        frontends = cluster_ip(stack.vip(10), 80, TCP), node_port(stack.family, 30080, TCP)
        endpoint = stack.backends[turn % 9]
        return service_port("web", frontends, [endpoint], family=stack.family)

    hooked.program_only(web(0))
    assert hooked.desired is not None

    with (
        connecting(hooked, stack, stack.vip(10), 80) as one,
        connecting(hooked, stack, stack.loopback, 30080) as two,
    ):
        for turn in range(1, 301):
            hooked.program([web(turn)])
            if turn % 20 == 0:
                one.wait_for(2)
                hooked.desired.reclaim()  # so that ids and slots are used again

    assert one.failures == two.failures == []
    assert one.attempts > 30


def test_everything_is_replaced_under_connects(hooked: Hooked, stack: Stack) -> None:
    """R32, R126: the VIP changes its owner with every update, along with all other Services."""
    vip = cluster_ip(stack.vip(10), 80, TCP)
    owners = [
        service_port(name, vip, stack.backends[at : at + 2], family=stack.family)
        for at, name in enumerate(("one", "two", "three"))
    ]
    hooked.program_only(owners[0])
    assert hooked.desired is not None

    with connecting(hooked, stack, stack.vip(10), 80) as tally:
        for turn in range(1, 200):
            others = some_ports(stack, 1 + turn % 9)
            gone = [ServiceName("default", f"web{n}") for n in range(2 + turn % 9, 10)]
            gone.append(owners[(turn - 1) % 3].key.service)
            others = [port for port in others if port.frontends[0].key != vip.key]
            hooked.program([owners[turn % 3], *others], gone=gone)
            if turn % 20 == 0:
                tally.wait_for(2)
                hooked.desired.reclaim()

    assert tally.failures == []
