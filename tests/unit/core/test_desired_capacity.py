# SPDX-License-Identifier: Apache-2.0
"""Tables that are too small: refused whole, by name, and served once there is room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.desired_world import (
    LAYOUTS,
    NODE,
    World,
)
from tests.support.service_ports import (
    CAPACITY,
    by_service,
    external,
    service_port,
)
from vipbee.abi import MapName
from vipbee.address import parse_address
from vipbee.core.desired import Desired
from vipbee.datapath.memory import MemoryTables
from vipbee.errors import CapacityError, KernelError

FULL = {
    "services": (replace(CAPACITY, services=3), "map services is full: 1 entries needed, 0 free"),
    "backends": (replace(CAPACITY, backends=6), "map backends is full: 3 entries needed, 1 free"),
    "slots": (replace(CAPACITY, slots=6), "map slots is full: 3 entries needed, 2 free"),
    "frontends": (replace(CAPACITY, frontends=3), "map frontends is full: 2 entries needed, 1"),
    "addresses": (replace(CAPACITY, addresses=3), "map addresses is full: 2 entries needed, 1"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_service_that_does_not_fit_is_refused_whole_and_others_work(name: str) -> None:
    capacity, message = FULL[name]
    world = World(capacity)
    small = (service_port("a", [1], [1, 2]), service_port("z", [2], [1, 2]))
    big = service_port("m", [3, 4], [1, 2, 3])

    world.update(*small, big)
    world.update(service_port("a", [1], [2]))

    expected = World()
    expected.update(service_port("a", [1], [2]), small[1])
    assert world.lines() == expected.lines()
    ((object_name, text),) = world.problems()
    assert object_name == "Service default/m"
    assert text.startswith(message)
    assert text.endswith(f"restart the agent with a larger {name} map to serve it")


def test_room_kept_for_a_refused_service_is_given_to_the_next() -> None:
    world = World(replace(CAPACITY, frontends=3, addresses=3, backends=4))

    world.update(
        service_port("a", [1]),
        service_port("m", [2, 3], [1, 2, 3, 4]),
        service_port("z", [4, 5], [1]),
    )

    names = {line.split()[2] for line in world.frontends()}
    assert names == {"default/a:", "default/z:"}


def test_a_refused_change_leaves_the_last_good_state() -> None:
    world = World(replace(CAPACITY, backends=4))
    world.update(service_port("web", [1], [1, 2]))
    before = world.lines()

    world.update(service_port("web", [1, 2], [1, 2, 3, 4]))

    assert world.lines() == before
    assert "it stays as it was" in world.problems()[0][1]


def test_a_refused_service_does_not_take_a_vip_away() -> None:
    """R88: the older Service would win, but it is not served."""
    world = World(replace(CAPACITY, backends=4))
    world.update(service_port("b", [2, external(1)], [2], created="2025-02-01"))

    world.update(service_port("a", [1, external(1)], [1, 2, 3], created="2025-01-01"))

    assert [line.split()[2] for line in world.frontends()] == ["default/b:"] * 2


def test_a_refused_service_is_served_once_there_is_room() -> None:
    world = World(replace(CAPACITY, backends=4))
    world.update(service_port("a", [1], [1, 2]))
    world.update(service_port("b", [2], [3, 4]))
    assert [line.split()[2] for line in world.frontends()] == ["default/a:"]

    world.update(gone_names=("a",))
    world.reclaim()

    assert [line.split()[2] for line in world.frontends()] == ["default/b:"]
    assert world.problems() == []


def test_an_audit_does_not_admit_what_was_refused() -> None:
    """Its counters would not start at zero; the next update does that."""
    world = World(replace(CAPACITY, services=2))
    world.update(service_port("a", [1]))
    world.update(service_port("b", [2]))
    world.update(gone_names=("a",))
    world.desired.reclaim()
    assert world.desired.reclaim()

    assert world.audit() == 0

    assert world.update() > 0
    assert [line.split()[2] for line in world.frontends()] == ["default/b:"]


def test_a_refused_service_that_goes_is_forgotten() -> None:
    world = World(replace(CAPACITY, backends=2))
    world.update(service_port("a", [1], [1, 2]))

    world.update(gone_names=("a",))

    assert world.problems() == []


def test_node_addresses_that_do_not_fit_are_reported() -> None:
    world = World(replace(CAPACITY, addresses=1))
    addresses = {parse_address(f"192.168.0.{n}"): NODE for n in (1, 2)}

    plan = world.desired.update({}, addresses)

    assert plan == []
    assert world.problems()[0][0] == "Node addresses"


def test_tables_of_another_size_are_not_adopted() -> None:
    with pytest.raises(ValueError, match="another size"):
        World().desired.adopt(World(replace(CAPACITY, slots=8)).tables.snapshot())


def test_tables_in_memory_refuse_what_the_kernel_refuses() -> None:
    desired = Desired(LAYOUTS, CAPACITY)
    plan = {op.map: op for op in desired.update(by_service(service_port("a", [1, 2], [1])))}
    tables = MemoryTables(LAYOUTS, replace(CAPACITY, frontends=1, backends=1))

    with pytest.raises(CapacityError, match="map frontends is full: 1 entries needed, 0 free"):
        tables.apply(plan[MapName.FRONTENDS])
    with pytest.raises(KernelError, match="Argument list too long"):
        tables.apply(plan[MapName.BACKENDS])
    with pytest.raises(KernelError, match="Invalid argument"):
        tables.apply(replace(plan[MapName.BACKENDS], values=None))
