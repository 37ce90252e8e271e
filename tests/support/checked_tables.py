# SPDX-License-Identifier: Apache-2.0
"""Tables that look at themselves, as a packet would, after every single entry."""

from __future__ import annotations

from vipbee.abi import Layouts, MapName
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.datapath.memory import MemoryTables


class CheckedTables:
    """MemoryTables that assert the one promise of every plan, entry by entry.

    Each slot of each frontend leads to a live backend of the frontend's own Service.
    """

    def __init__(self, layouts: Layouts, capacity: Capacity) -> None:
        self.memory = MemoryTables(layouts, capacity)
        self.entries = 0
        self.is_checked = True

    def apply(self, op: Op) -> None:
        for at in range(len(op)):
            values = None if op.values is None else op.values[at : at + 1]
            self.memory.apply(Op(op.map, op.keys[at : at + 1], values))
            self.entries += 1
            if self.is_checked and op.map not in _COUNTERS:
                assert broken_slots(self.memory.snapshot()) == [], f"after an entry of {op.map}"

    def snapshot(self) -> Snapshot:
        return self.memory.snapshot()


_COUNTERS = (MapName.SERVICE_COUNTERS, MapName.BACKEND_COUNTERS)


def broken_slots(snapshot: Snapshot) -> list[tuple[bytes, int]]:
    """(frontend key, slot) of each slot that leads nowhere or to another Service."""
    broken = []
    for key, value in zip(snapshot.frontend_keys, snapshot.frontends.tolist(), strict=True):
        service_id, _, cluster, local, *_ = value
        slots = {first + n for first, count in (cluster, local) for n in range(count)}
        for slot in sorted(slots):
            backend_id = snapshot.slots[slot] if slot < len(snapshot.slots) else 0
            backend = snapshot.backends[backend_id]
            if not backend["flags"] or backend["service_id"] != service_id:
                broken.append((key.tobytes(), slot))
    return broken
