# SPDX-License-Identifier: Apache-2.0
"""What is adopted after a restart, and what audits put right: R128, R130."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.desired_world import (
    NO_IDS,
    NO_INFO,
    World,
    ids,
    slots_written,
    visible_slots,
)
from tests.support.service_ports import (
    by_service,
    external,
    service_port,
)
from vipbee.abi import MapName


def test_a_restart_keeps_every_id_and_writes_nothing() -> None:
    """R128."""
    world = World()
    ports = (service_port("a", [1, external(3)], [1, 2]), service_port("b", [2], [3]))
    world.update(*ports)
    world.update(service_port("a", [1, external(3)], [2, 4]))
    before = world.tables.snapshot()

    world.restart()

    assert world.update(service_port("a", [1, external(3)], [2, 4]), ports[1]) == 0
    assert world.audit() == 0
    assert (world.tables.snapshot().backends == before.backends).all()


def test_what_was_left_half_written_rests_until_it_is_corrected() -> None:
    """Sources may take long to deliver; the agent goes on calling reclaim meanwhile."""
    world = World()
    world.update(service_port("a", [1, 2], [1, 2]))
    plan = {op.map: op for op in world.desired.update(by_service(service_port("a", [1, 2], [2])))}
    world.tables.apply(plan[MapName.SLOTS])
    switched = plan[MapName.FRONTENDS]
    assert switched.values is not None
    world.tables.apply(replace(switched, keys=switched.keys[:1], values=switched.values[:1]))
    world.restart()
    visible = visible_slots(world.tables.snapshot())

    for _ in range(3):
        world.desired.reclaim()
    plan_after = world.desired.update(by_service(service_port("a", [1, 2], [3, 4])))

    assert slots_written(plan_after).isdisjoint(visible)


def test_services_deleted_while_the_agent_was_down_vanish_at_the_first_audit() -> None:
    """R128."""
    world = World()
    world.update(service_port("a", [1], [1]), service_port("b", [2], [2]))
    world.restart()
    world.update(service_port("b", [2], [2]))
    assert len(world.frontends()) == 2

    assert world.audit() > 0

    assert [line.split()[2] for line in world.frontends()] == ["default/b:"]
    assert world.audit() == 0


@pytest.mark.parametrize("entries", range(30))
def test_a_restart_after_any_entry_of_a_plan_converges(entries: int) -> None:
    """F38, R128: killed in the middle of an update that moves slots and hands a VIP over."""
    old = (
        service_port("a", [1, external(1)], [1, 2], created="2025-01-01"),
        service_port("b", [2, external(1)], [3, 4], created="2025-02-01"),
    )
    new = (service_port("a", [5], [2, 6]), service_port("b", [2, external(1)], [4, 7]))
    world = World()
    world.update(*old)
    plan = world.desired.update(by_service(*new))
    killed_at = world.tables.entries + entries
    for op in plan:
        for at in range(len(op)):
            if world.tables.entries < killed_at:
                values = None if op.values is None else op.values[at : at + 1]
                world.tables.apply(replace(op, keys=op.keys[at : at + 1], values=values))

    world.restart()
    visible = visible_slots(world.tables.snapshot())
    plan = world.desired.update(by_service(*new))
    assert slots_written(plan).isdisjoint(visible), "a run that is being read was overwritten"
    for op in plan:
        world.tables.apply(op)
    world.audit()

    fresh = World()
    fresh.update(*new)
    assert world.lines() == fresh.lines()
    assert world.audit() == 0


def test_backends_of_a_service_without_a_name_are_left_alone_until_the_audit() -> None:
    """Frontends lead to them still: CheckedTables sees every entry of the update."""
    world = World()
    world.update(service_port("a", [1], [1, 2]))
    world.tables.memory.load(replace(world.tables.snapshot(), service_ids=NO_IDS, services=NO_INFO))
    world.restart()
    before = set(ids(world.tables.snapshot()).values())

    world.update(service_port("b", [2], [3, 4]))

    assert before < set(ids(world.tables.snapshot()).values())
    world.audit()
    assert [line.split()[2] for line in world.frontends()] == ["default/b:"]


def test_foreign_entries_are_removed_and_lost_ones_restored() -> None:
    """R130."""
    world = World()
    world.update(service_port("a", [1], [1]))
    other = World()
    other.update(service_port("x", [8], [8, 9]), service_port("y", [9], [9]))
    expected = world.lines()
    foreign = other.tables.snapshot()

    for key in list(world.tables.memory._hashes[MapName.FRONTENDS]):
        del world.tables.memory._hashes[MapName.FRONTENDS][key]
    world.tables.memory._hashes[MapName.FRONTENDS].update(
        other.tables.memory._hashes[MapName.FRONTENDS]
    )
    world.tables.memory.arrays[MapName.SLOTS][:] = foreign.slots
    world.tables.memory.arrays[MapName.BACKENDS][5] = foreign.backends[1]

    assert world.audit() > 0
    assert world.lines() == expected
    assert world.audit() == 0
