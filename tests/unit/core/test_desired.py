# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.checked_tables import CheckedTables
from tests.support.service_ports import (
    CAPACITY,
    backend,
    by_service,
    external,
    frontend,
    gone,
    service_port,
)
from vipbee.abi import AddressFlag, FrontendKind, MapName
from vipbee.address import LOOPBACK_V4, parse_address
from vipbee.core.desired import Desired
from vipbee.core.dump import dump
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.errors import CapacityError, KernelError
from vipbee.model import ServicePort

LAYOUTS = load_layouts()
NO_IDS, NO_INFO = np.zeros(0, np.uint32), np.zeros(0, LAYOUTS["service_info"])
NODE = int(AddressFlag.NODE | AddressFlag.OWN)


class World:
    """A Desired and the tables its plans are applied to."""

    def __init__(self, capacity: Capacity = CAPACITY) -> None:
        self.capacity = capacity
        self.desired = Desired(LAYOUTS, capacity)
        self.tables = CheckedTables(LAYOUTS, capacity)

    def update(self, *ports: ServicePort, gone_names: tuple[str, ...] = ()) -> int:
        """Program these Services; return how many entries were written."""
        before = self.tables.entries
        for op in self.desired.update(by_service(*ports) | gone(*gone_names)):
            self.tables.apply(op)
        return self.tables.entries - before

    def reclaim(self) -> None:
        for _ in range(2):
            if self.desired.reclaim():
                self.update()

    def restart(self) -> None:
        """A new process finds the tables as they are."""
        self.desired = Desired(LAYOUTS, self.capacity)
        self.desired.adopt(self.tables.snapshot())

    def audit(self) -> int:
        before = self.tables.entries
        self.tables.is_checked = False  # what somebody else broke is broken until repaired
        for op in self.desired.audit(self.tables.snapshot()):
            self.tables.apply(op)
        self.tables.is_checked = True
        return self.tables.entries - before

    def lines(self) -> list[str]:
        return dump(self.tables.snapshot()).splitlines()

    def frontends(self) -> list[str]:
        return [line for line in self.lines() if "cluster=" in line]

    def problems(self) -> list[tuple[str, str]]:
        return [(problem.object, problem.message) for problem in self.desired.problems()]


def ids(snapshot: Snapshot) -> dict[bytes, int]:
    """Backend address → id."""
    live = np.flatnonzero(snapshot.backends["flags"])
    return {snapshot.backends[at]["address"].tobytes(): int(at) for at in live}


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


def slots_written(plan: list[Op]) -> set[int]:
    return {int(at) for op in plan if op.map == MapName.SLOTS for at in op.keys}


def visible_slots(snapshot: Snapshot) -> set[int]:
    ranges = [r for name in ("cluster", "local") for r in snapshot.frontends[name].tolist()]
    return {first + n for first, count in ranges for n in range(count)}


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


# ---- restart and audit


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


# ---- capacity


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


# ---- the tables in memory


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


def test_a_node_port_uses_no_address() -> None:
    """R89: the unspecified address is nobody's."""
    world = World()
    node_port = frontend(1, FrontendKind.NODE_PORT)

    world.update(service_port("a", [node_port], [backend(1)]))

    assert not any(line.startswith("address") for line in world.lines())
