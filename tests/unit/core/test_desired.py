# SPDX-License-Identifier: Apache-2.0
"""Ids, runs and roles of addresses: what a change of Services writes and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

from tests.support.desired_world import (
    LAYOUTS,
    NODE,
    World,
    ids,
    slots_written,
)
from tests.support.service_ports import (
    CAPACITY,
    backend,
    by_service,
    external,
    frontend,
    gone,
    service_port,
)
from vipbee.abi import FrontendKind, MapName
from vipbee.address import LOOPBACK_V4, parse_address
from vipbee.core.desired import Desired


def test_an_update_that_changes_nothing_writes_nothing() -> None:
    """R23: also with equal but new objects, and when only the Service's age is known now."""
    world = World()
    world.update(service_port("web", [1], [1, 2]))

    assert world.update(service_port("web", [1], [1, 2])) == 0
    assert world.update(service_port("web", [1], [1, 2], created="2025-01-01T00:00:00Z")) == 0


def test_other_backends_keep_their_ids_when_one_comes_and_one_goes() -> None:
    world = World()
    world.update(service_port("web", [1], [1, 2, 3]))
    before = ids(world.tables.snapshot())

    world.update(service_port("web", [1], [2, 3, 4]))

    after = ids(world.tables.snapshot())
    kept = before.keys() & after.keys()
    assert len(kept) == 2
    assert all(before[address] == after[address] for address in kept)


def test_a_returning_backend_is_a_new_one_to_old_flows() -> None:
    """R64, R111: another id or another generation, before and after the rest is over."""
    world = World()
    seen = []
    for _ in range(4):
        world.update(service_port("web", [1], [1]))
        snapshot = world.tables.snapshot()
        (backend_id,) = ids(snapshot).values()
        seen.append((backend_id, int(snapshot.backends[backend_id]["generation"])))
        world.update(service_port("web", [1], []))
        world.reclaim()

    assert len(set(seen)) == len(seen)


def test_a_run_given_up_is_left_alone_until_reclaimed_twice() -> None:
    """A program in the kernel may still be reading it."""
    desired = Desired(LAYOUTS, CAPACITY)
    used: set[int] = set()
    for backends in ([1, 2], [2, 3], [1, 3]):
        written = slots_written(desired.update(by_service(service_port("web", [1], backends))))
        assert written.isdisjoint(used)
        used |= written

    desired.reclaim()
    desired.reclaim()

    written = slots_written(desired.update(by_service(service_port("web", [1], [1, 2]))))
    assert written <= used


def test_counters_of_a_new_owner_of_an_id_start_at_zero() -> None:
    world = World(replace(CAPACITY, services=2, backends=2))
    world.update(service_port("web", [1], [1]))
    world.tables.memory.arrays[MapName.SERVICE_COUNTERS]["opened"][1] = 7
    world.tables.memory.arrays[MapName.BACKEND_COUNTERS]["opened"][1] = 7
    world.update(gone_names=("web",))
    world.reclaim()

    world.update(service_port("api", [2], [2]))

    assert world.tables.memory.arrays[MapName.SERVICE_COUNTERS]["opened"].sum() == 0
    assert world.tables.memory.arrays[MapName.BACKEND_COUNTERS]["opened"].sum() == 0


def test_a_vip_is_handed_over_in_one_plan_without_a_gap() -> None:
    """R88, R126: no deletion of the key, only its value changes."""
    world = World()
    world.update(
        service_port("a", [1, external(1)], [1], created="2025-01-01"),
        service_port("b", [2, external(1)], [2], created="2025-02-01"),
    )

    plan = world.desired.update(gone("a"))

    deleted = [op for op in plan if op.map == MapName.FRONTENDS and op.values is None]
    assert [op.keys["address"]["word"][:, 3].tolist() for op in deleted] == [[0x0A600001]]
    for op in plan:
        world.tables.apply(op)
    assert [line.split(" cluster")[0] for line in world.frontends()] == [
        "10.96.0.2:80/TCP ClusterIP default/b:",
        "198.51.100.1:80/TCP ExternalIP default/b:",
    ]


def test_an_address_carries_all_its_roles_and_loses_them_one_by_one() -> None:
    """R37, R40, R89."""
    world = World()
    shared = parse_address("198.51.100.1")
    cluster_ip = frontend(1)._replace(key=frontend(1).key._replace(address=shared, port=81))
    world.update(service_port("a", [external(1)]), service_port("b", [cluster_ip]))
    for op in world.desired.update({}, {shared: NODE, LOOPBACK_V4: NODE}):
        world.tables.apply(op)
    assert "address 198.51.100.1 CLUSTER_IP|NODE|EXTERNAL|OWN" in world.lines()

    world.update(gone_names=("b",))
    assert "address 198.51.100.1 NODE|EXTERNAL|OWN" in world.lines()

    for op in world.desired.update({}, {}):
        world.tables.apply(op)
    assert world.lines()[-1] == "address 198.51.100.1 EXTERNAL"


def test_full_removes_what_it_does_not_name() -> None:
    world = World()
    world.update(service_port("a", [1], [1]), service_port("b", [2], [2]))

    for op in world.desired.full(by_service(service_port("b", [2], [2])), {}):
        world.tables.apply(op)

    assert [line.split()[2] for line in world.frontends()] == ["default/b:"]


# ---- the tables in memory


def test_a_node_port_uses_no_address() -> None:
    """R89: the unspecified address is nobody's."""
    world = World()
    node_port = frontend(1, FrontendKind.NODE_PORT)

    world.update(service_port("a", [node_port], [backend(1)]))

    assert not any(line.startswith("address") for line in world.lines())
