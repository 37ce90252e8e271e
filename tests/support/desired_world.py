# SPDX-License-Identifier: Apache-2.0
"""Desired state, the tables it is written to, and every entry checked on the way."""

from __future__ import annotations

import numpy as np

from tests.support.checked_tables import CheckedTables
from tests.support.service_ports import (
    CAPACITY,
    by_service,
    gone,
)
from vipbee.abi import AddressFlag, MapName
from vipbee.core.desired import Desired
from vipbee.core.dump import dump
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.datapath.layouts import load_layouts
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


def slots_written(plan: list[Op]) -> set[int]:
    return {int(at) for op in plan if op.map == MapName.SLOTS for at in op.keys}


def visible_slots(snapshot: Snapshot) -> set[int]:
    ranges = [r for name in ("cluster", "local") for r in snapshot.frontends[name].tolist()]
    return {first + n for first, count in ranges for n in range(count)}
