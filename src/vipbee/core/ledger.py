# SPDX-License-Identifier: Apache-2.0
"""What is programmed: which id and which slots each Service port has, and table contents.

The arrays are what `backends`, `slots` and `services` should hold, indexed as the maps
are; every change to them is recorded as a change to be made. Who owns which frontend is
not decided here. Untouched pages of the arrays cost no memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vipbee.abi import Layouts, MapName
from vipbee.core.ids import IdPool, RunPool
from vipbee.core.plan import Changes, Entries
from vipbee.core.render import Backends, SlotRange, service_infos
from vipbee.core.snapshot import Capacity, Records
from vipbee.core.source_ranges import SourceRangeTable
from vipbee.model import Frontend, ServicePort, ServicePortKey


@dataclass(slots=True, eq=False)
class Programmed:
    """One Service port as it stands in the tables."""

    port: ServicePort
    service_id: int
    backend_ids: Records  # u4, parallel to port.backends
    run: SlotRange  # all its slots
    cluster: SlotRange
    local: SlotRange
    owned: tuple[Frontend, ...] = ()  # frontends that lead here


class Draft:
    """Service ports about to be programmed, with the ids they can keep.

    A backend keeps its id as long as its Service port, address and port stay; a Service
    port keeps its run as long as the run would be filled the same way (R23).
    """

    def __init__(self, ledger: Ledger, ports: Sequence[ServicePort]) -> None:
        self.ports = ports
        self.before = [ledger.programmed.get(port.key) for port in ports]
        self.backends = Backends(ports)
        self.ids = np.zeros(len(self.backends.flags), np.uint32)
        self.gone: list[int] = []
        starts, ends = self.backends.starts.tolist(), self.backends.ends.tolist()
        for at, record in enumerate(self.before):
            if record is not None:
                self.ids[starts[at] : ends[at]] = self._kept(ports[at], record)
        self.new_rows = np.flatnonzero(self.ids == 0)
        self.new_ports = [at for at, record in enumerate(self.before) if record is None]
        self.keeps_run = self._keeps_run(ledger.slots)
        self.slots_needed = int(self.backends.run_lengths[~self.keeps_run].sum())

    def _kept(self, port: ServicePort, record: Programmed) -> Records | list[int]:
        """Return the ids of the port's backends, 0 for a new one; note those that go."""
        if port.backends == record.port.backends:
            return record.backend_ids
        ids = record.backend_ids.tolist()
        known = {(b[0], b[1]): ids[at] for at, b in enumerate(record.port.backends)}
        kept = [known.pop((b[0], b[1]), 0) for b in port.backends]
        self.gone.extend(known.values())
        return kept

    def _keeps_run(self, slots: Records) -> Records:
        """Mask over ports: the slots they have now already hold what they should."""
        runs = [(0, -1) if record is None else record.run for record in self.before]
        firsts, lengths = np.array(runs, np.int64).reshape(-1, 2).T
        run_lengths = self.backends.run_lengths
        keeps = np.asarray(lengths == run_lengths)
        wanted = self.ids[self.backends.slot_rows]
        port_of = self.backends.port_of[self.backends.slot_rows]
        offsets = np.arange(len(wanted)) - (np.cumsum(run_lengths) - run_lengths)[port_of]
        same = np.zeros(len(wanted), bool)
        check = np.flatnonzero(keeps[port_of])
        same[check] = slots[(firsts[port_of] + offsets)[check]] == wanted[check]
        keeps[port_of[~same]] = False
        return keeps


class Ledger:
    def __init__(self, layouts: Layouts, capacity: Capacity) -> None:
        self.layouts = layouts
        self.programmed: dict[ServicePortKey, Programmed] = {}
        self.service_ids = IdPool(MapName.SERVICES, capacity.services)
        self.backend_ids = IdPool(MapName.BACKENDS, capacity.backends)
        self.runs = RunPool(capacity.slots)
        self.slots = np.zeros(capacity.slots, np.uint32)
        self.backends = np.zeros(capacity.backends, layouts["backend"])
        self.services = np.zeros(capacity.services, layouts["service_info"])
        self.source_ranges = SourceRangeTable(layouts, capacity.source_ranges)

    def program(self, draft: Draft, changes: Changes) -> None:
        """Give a draft what it needs and write it; raise CapacityError having done nothing."""
        backends = draft.backends
        self.service_ids.require(len(draft.new_ports))
        self.backend_ids.require(len(draft.new_rows))
        self.source_ranges.require(sum(len(port.source_ranges) for port in draft.ports))
        block = self.runs.take(draft.slots_needed)
        firsts = self._place(draft, block)
        service_ids = np.array([0 if r is None else r.service_id for r in draft.before], np.uint32)
        service_ids[draft.new_ports] = self.service_ids.take(len(draft.new_ports))
        draft.ids[draft.new_rows] = self.backend_ids.take(len(draft.new_rows))
        changes.new_services.append(service_ids[draft.new_ports])
        changes.new_backends.append(draft.ids[draft.new_rows])

        self._write_backends(draft, service_ids, changes)
        self._write_slots(draft, block, changes)
        self._write_services(draft, service_ids, changes)
        self._free_backends(draft.gone, changes)

        starts, ends = backends.starts.tolist(), backends.ends.tolist()
        columns = zip(
            draft.ports,
            draft.before,
            service_ids.tolist(),
            firsts.tolist(),
            backends.run_lengths.tolist(),
            backends.ranges(firsts),
            draft.keeps_run.tolist(),
            strict=True,
        )
        for at, (port, old, service_id, first, length, ranges, keeps_run) in enumerate(columns):
            if old is not None and not keeps_run:
                self.runs.release(*old.run)
            ids = draft.ids[starts[at] : ends[at]]
            run = SlotRange(first, length)
            owned = () if old is None else old.owned
            cluster, local = ranges
            self.source_ranges.set(service_id, port.source_ranges, changes)
            self.programmed[port.key] = Programmed(
                port, service_id, ids, run, cluster, local, owned
            )

    def remove(self, keys: Iterable[ServicePortKey], changes: Changes) -> list[Programmed]:
        """Withdraw Service ports; return what they had. Nobody may lead to them any more."""
        removed = [self.programmed.pop(key) for key in keys]
        for record in removed:
            self.runs.release(*record.run)
            self.source_ranges.set(record.service_id, (), changes)
            self._free_backends(record.backend_ids.tolist(), changes)
        service_ids = np.array([record.service_id for record in removed], np.uint32)
        self.services[service_ids] = np.zeros((), self.services.dtype)
        self.service_ids.release(service_ids.tolist())
        changes.services_gone.append(service_ids)
        return removed

    def reclaim(self) -> int:
        """Let what was given up two calls ago be used again; return how much that was."""
        return self.service_ids.reclaim() + self.backend_ids.reclaim() + self.runs.reclaim()

    def _place(self, draft: Draft, block: int) -> Records:
        """Return the first slot of each port: the one it has, or its part of the block."""
        firsts = np.array([0 if r is None else r.run.first for r in draft.before], np.int64)
        moves = ~draft.keeps_run
        lengths = draft.backends.run_lengths[moves]
        firsts[moves] = np.where(lengths > 0, block + np.cumsum(lengths) - lengths, 0)
        return firsts

    def _write_backends(self, draft: Draft, service_ids: Records, changes: Changes) -> None:
        protocols = np.array([port.key.protocol for port in draft.ports], np.uint8)
        values = draft.backends.render(self.layouts, protocols=protocols, service_ids=service_ids)
        where = _where(draft.ids)
        old = self.backends[where]
        values["generation"] = old["generation"]
        both_flags = values["flags"] | old["flags"]
        last = np.flatnonzero(both_flags != values["flags"])
        changes.backends_last.append((draft.ids[last], values[last]))
        final = values.copy() if len(last) else values
        values["flags"] = both_flags
        changes.backends_first.append(_changed(draft.ids, values, old))
        self.backends[where] = final

    def _write_slots(self, draft: Draft, block: int, changes: Changes) -> None:
        if draft.slots_needed == 0:
            return
        rows = draft.backends.slot_rows
        moved = rows[~draft.keeps_run[draft.backends.port_of[rows]]]
        indices = np.arange(block, block + len(moved), dtype=np.uint32)
        values = draft.ids[moved]
        self.slots[block : block + len(moved)] = values
        changes.slots.append((indices, values))

    def _write_services(self, draft: Draft, service_ids: Records, changes: Changes) -> None:
        values = service_infos(self.layouts, draft.ports)
        where = _where(service_ids)
        changes.services.append(_changed(service_ids, values, self.services[where]))
        self.services[where] = values

    def _free_backends(self, ids: Sequence[int], changes: Changes) -> None:
        if not ids:
            return
        keys = np.array(ids, np.uint32)
        values: Records = np.zeros(len(keys), self.backends.dtype)
        values["generation"] = self.backends["generation"][keys] + 1
        self.backends[keys] = values
        self.backend_ids.release(ids)
        changes.backends_last.append((keys, values))


def _where(ids: Records) -> Records | slice:
    """Return an index for `ids`: a slice, ten times as fast, if they follow each other."""
    if len(ids) > 1 and (ids[1:] - ids[:-1] == 1).all():
        return slice(int(ids[0]), int(ids[-1]) + 1)
    return ids


def _changed(keys: Records, values: Records, old: Records) -> Entries:
    """Return the entries that differ from `old`."""
    rows = np.flatnonzero(differs(values, old))
    return (keys, values) if len(rows) == len(keys) else (keys[rows], values[rows])


def differs(left: Records, right: Records) -> Records:
    """Mask: where two arrays of one dtype differ in any byte."""
    unit = np.dtype((np.void, left.dtype.itemsize))
    return np.asarray(left.view(unit) != right.view(unit))
