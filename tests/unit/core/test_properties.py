# SPDX-License-Identifier: Apache-2.0
"""What holds for every history, found by Hypothesis. CheckedTables watches every entry."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.checked_tables import CheckedTables
from tests.support.service_ports import (
    BOTH,
    CAPACITY,
    CLUSTER,
    DRAINING,
    LOCAL,
    backend,
    external,
    service_port,
)
from tests.support.services import endpoint, endpoint_slice, service
from vipbee.abi import BackendFlag
from vipbee.core.desired import Desired
from vipbee.core.dump import dump
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.model import ApiObject, ServiceName, ServicePort
from vipbee.reconcile import NodeSettings, Reconciler

LAYOUTS = load_layouts()
QUICK = settings(max_examples=40, deadline=None)

# ---- histories of objects

addresses = st.sampled_from(["10.244.1.1", "10.244.1.2", "10.244.2.1", "10.244.2.2"])
endpoints = st.builds(
    lambda address, node, ready, terminating: endpoint(
        address, node=node, ready=ready, serving=True, terminating=terminating
    ),
    addresses,
    st.sampled_from(["node-a", "node-b"]),
    st.booleans(),
    st.booleans(),
)


def a_service(name: str, number: int, spec: dict[str, Any]) -> ApiObject:
    return service(name, clusterIP=f"10.96.0.{number}", created=f"2025-01-0{number}", **spec)


specs = st.fixed_dictionaries(
    {},
    optional={
        "externalIPs": st.just(["198.51.100.1"]),
        "internalTrafficPolicy": st.just("Local"),
        "sessionAffinity": st.just("ClientIP"),
        "type": st.just("NodePort"),
        "ports": st.sampled_from(
            [[{"port": 80, "nodePort": 30080}], [{"port": 80}, {"name": "b", "port": 81}]]
        ),
    },
)
NAMES = ("a", "b", "c")
objects = st.one_of(
    *[specs.map(lambda spec, n=n: a_service(NAMES[n], n + 1, spec)) for n in range(3)],
    *[
        st.builds(
            lambda rows, owner, slice_name=slice_name: endpoint_slice(
                *rows, name=slice_name, service=owner
            ),
            st.lists(endpoints, max_size=3),
            st.sampled_from(NAMES),
        )
        for slice_name in ("x", "y", "z")
    ],
)
Key = tuple[str, str]
history = st.lists(
    st.tuples(st.one_of(objects, st.sampled_from(NAMES)), st.booleans()), max_size=14
)


def key_of(item: ApiObject) -> Key:
    return type(item).__name__, item.metadata.name


class Node:
    """A node that is told of objects one by one."""

    def __init__(self) -> None:
        self.tables = CheckedTables(LAYOUTS, replace(CAPACITY, backends=64, slots=128))
        self.reconciler = Reconciler(
            self.tables, LAYOUTS, replace(CAPACITY, backends=64, slots=128), NodeSettings("node-a")
        )

    def program(self, items: list[ApiObject]) -> None:
        self.reconciler.replace("test", items)
        if self.reconciler.begun:
            self.reconciler.program()
        else:
            self.reconciler.begin()

    def text(self) -> str:
        return dump(self.tables.snapshot())


@QUICK
@given(history, st.randoms(use_true_random=False))
def test_any_history_ends_where_a_fresh_list_does(events: list[Any], random: Any) -> None:
    """R7, R21, R126: order, repetition and batching do not matter; twice plans nothing."""
    node = Node()
    there: dict[Key, ApiObject] = {}
    for item, is_programmed in events:
        if isinstance(item, str):
            there.pop(("Service", item), None)
        else:
            there[key_of(item)] = item
        if is_programmed:
            node.program(random.sample(list(there.values()), len(there)))
            node.reconciler.reclaim()
    node.program(list(there.values()))

    fresh = Node()
    fresh.program(random.sample(list(there.values()), len(there)))
    assert node.text() == fresh.text()
    before = node.tables.entries
    node.reconciler.begin()
    node.reconciler.audit()
    assert node.tables.entries == before


# ---- histories of Service ports, in tables that are too small

flags = st.sampled_from([CLUSTER, BOTH, LOCAL, DRAINING, CLUSTER | BackendFlag.ON_NODE])
backends = st.lists(
    st.builds(backend, st.integers(1, 6), flags), max_size=5, unique_by=lambda row: row.address
)
PORT_NAMES = {"a": 1, "b": 2, "c": 3, "d": 4}


@st.composite
def ports_of(draw: st.DrawFn) -> tuple[ServiceName, tuple[ServicePort, ...]]:
    """One Service as it might be now, possibly gone; VIPs 1 and 2 are contested."""
    name = draw(st.sampled_from(sorted(PORT_NAMES)))
    ports = []
    for port_name in draw(st.sampled_from([[], ["x"], ["x"], ["x", "y"]])):
        vips = draw(st.lists(st.integers(1, 2), max_size=2, unique=True))
        number = PORT_NAMES[name] + (10 if port_name == "y" else 0)
        frontends = [number, *(external(vip) for vip in vips)]
        created = draw(st.sampled_from(["2025-01", "2025-02"]))
        rows = draw(backends)
        ports.append(service_port(name, frontends, rows, port_name=port_name, created=created))
    return ServiceName("default", name), tuple(ports)


batches = st.lists(st.tuples(st.lists(ports_of(), max_size=4), st.booleans()), max_size=8)
capacities = st.builds(
    Capacity,
    frontends=st.integers(3, 14),
    addresses=st.integers(3, 10),
    slots=st.integers(4, 40),
    backends=st.integers(3, 30),
    services=st.integers(2, 14),
)


def programmed_text(capacity: Capacity, ports: dict[ServiceName, Any]) -> str:
    """The dump of tables that held nothing before."""
    desired, tables = Desired(LAYOUTS, capacity), CheckedTables(LAYOUTS, capacity)
    tables.is_checked = False
    for op in desired.update(ports):
        tables.apply(op)
    return dump(tables.snapshot())


@QUICK
@given(batches, capacities)
def test_full_tables_hold_whole_services_only(batched: list[Any], capacity: Capacity) -> None:
    """Each Service is there as last admitted or not at all, and no map ever overflows."""
    desired, tables = Desired(LAYOUTS, capacity), CheckedTables(LAYOUTS, capacity)
    for batch, is_reclaimed in batched:
        for op in desired.update(dict(batch)):
            tables.apply(op)  # raises CapacityError if the plan does not fit
        if is_reclaimed and desired.reclaim():
            for op in desired.update({}):
                tables.apply(op)

        roomy = replace(CAPACITY, frontends=64, addresses=64, backends=256, slots=256, services=64)
        assert dump(tables.snapshot()) == programmed_text(roomy, dict(desired.ports))
        assert desired.audit(tables.snapshot()) == []


ROOMY = Capacity(frontends=64, addresses=64, slots=256, backends=128, services=64)


def after(batched: list[Any]) -> tuple[Desired, CheckedTables]:
    desired, tables = Desired(LAYOUTS, ROOMY), CheckedTables(LAYOUTS, ROOMY)
    for batch, is_reclaimed in batched:
        for op in desired.update(dict(batch)):
            tables.apply(op)
        if is_reclaimed:
            desired.reclaim()
    return desired, tables


@QUICK
@given(batches)
def test_adopting_the_tables_changes_nothing(batched: list[Any]) -> None:
    """R128: the same ids, the same runs, the same generations."""
    desired, tables = after(batched)
    wanted = dict(desired.ports)

    again = Desired(LAYOUTS, ROOMY)
    again.adopt(tables.snapshot())

    assert again.full(wanted) == []
    assert again.audit(tables.snapshot()) == []
    assert again.full(wanted) == []


@QUICK
@given(batches, batches)
def test_an_adopted_state_goes_on_like_any_other(before: list[Any], later: list[Any]) -> None:
    first, tables = after(before)
    desired = Desired(LAYOUTS, ROOMY)
    desired.adopt(tables.snapshot())
    for op in desired.full(dict(first.ports)):
        tables.apply(op)

    for batch, is_reclaimed in later:
        for op in desired.update(dict(batch)):
            tables.apply(op)
        if is_reclaimed:
            desired.reclaim()

    assert dump(tables.snapshot()) == programmed_text(ROOMY, dict(desired.ports))


def corrupted(snapshot: Snapshot, rolls: list[tuple[int, int, int]]) -> Snapshot:
    """Overwrite bytes anywhere, and drop entries of hashes."""
    copies = {field.name: getattr(snapshot, field.name).copy() for field in fields(snapshot)}
    names = sorted(copies)
    for table, place, value in rolls:
        raw = copies[names[table % len(names)]].view(np.uint8)
        if len(raw):
            raw[place % len(raw)] = value
    for keys, values in (("frontend_keys", "frontends"), ("address_keys", "addresses")):
        if rolls and len(copies[keys]) and rolls[0][0] % 2:
            copies[keys], copies[values] = copies[keys][1:], copies[values][1:]
    return Snapshot(**copies)


def loaded(snapshot: Snapshot) -> CheckedTables:
    """Tables with exactly this content; of equal keys the last counts, as in a hash."""
    tables = CheckedTables(LAYOUTS, ROOMY)
    tables.is_checked = False
    tables.memory.load(snapshot)
    return tables


rolls = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 1 << 16), st.integers(0, 255)), max_size=12
)


@QUICK
@given(batches, rolls)
def test_an_audit_repairs_whatever_was_done_to_the_tables(
    batched: list[Any], damage: list[Any]
) -> None:
    """R130."""
    desired, tables = after(batched)
    expected = dump(tables.snapshot())
    tables = loaded(corrupted(tables.snapshot(), damage))

    for op in desired.audit(tables.snapshot()):
        tables.apply(op)

    assert dump(tables.snapshot()) == expected
    assert desired.audit(tables.snapshot()) == []


THREE_BACKENDS = service_port("a", [1], [backend(n, CLUSTER) for n in (1, 2, 3)])
ONE_SERVICE = [([(ServiceName("default", "a"), (THREE_BACKENDS,))], False)]


@settings(max_examples=80, deadline=None)
@example(ONE_SERVICE, [(4, 180, 254)])  # a frontend says that it leads to nearly all slots
@given(batches, rolls)
def test_adopting_garbage_ends_in_the_desired_state(batched: list[Any], damage: list[Any]) -> None:
    """R128: whatever a killed process or somebody else left behind."""
    first, tables = after(batched)
    expected = dump(tables.snapshot())
    tables = loaded(corrupted(tables.snapshot(), damage))

    desired = Desired(LAYOUTS, ROOMY)
    desired.adopt(tables.snapshot())
    for op in desired.update(dict(first.ports), {}):
        tables.apply(op)
    for op in desired.audit(tables.snapshot()):
        tables.apply(op)

    assert dump(tables.snapshot()) == expected
    assert desired.audit(tables.snapshot()) == []
