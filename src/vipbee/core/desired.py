# SPDX-License-Identifier: Apache-2.0
"""The fold: what should be true, and the operations that make it so.

Feed it what changed and apply what it returns, in order, before feeding it more: it
remembers the tables as if every plan had been applied. If applying failed, `audit` with
a fresh snapshot puts right what is missing. Pure: no kernel, no clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from vipbee.abi import FrontendKind, Layouts, MapName
from vipbee.core.adopt import read_tables
from vipbee.core.audit import compare
from vipbee.core.claims import Claims
from vipbee.core.frontends import FrontendTable
from vipbee.core.ledger import Draft, Ledger
from vipbee.core.plan import Changes, Op
from vipbee.core.render import FrontendRow
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.errors import CapacityError
from vipbee.model import (
    FrontendKey,
    Problem,
    ProblemReason,
    ServiceName,
    ServicePort,
    ServicePortKey,
)

_LOAD_BALANCER = int(FrontendKind.LOAD_BALANCER)
_Wanted = tuple[ServiceName, tuple[ServicePort, ...]]


class _Refused(NamedTuple):
    """A Service that did not fit; retried as soon as it could."""

    ports: tuple[ServicePort, ...]
    error: CapacityError


class Desired:
    """Everything that should be programmed on this node."""

    def __init__(self, layouts: Layouts, capacity: Capacity) -> None:
        self._layouts = layouts
        self._capacity = capacity
        self._ledger = Ledger(layouts, capacity)
        self._table = FrontendTable(layouts, capacity)
        self._claims = Claims()
        self._ports: dict[ServiceName, tuple[ServicePort, ...]] = {}
        self._adopted: dict[ServiceName, list[ServicePortKey]] = {}  # not confirmed by an update
        self._refused: dict[ServiceName, _Refused] = {}
        self._node_problem: Problem | None = None
        self._is_corrected = True  # False: frontends may lead to slots that only rest

    @property
    def ports(self) -> Mapping[ServiceName, tuple[ServicePort, ...]]:
        """What is programmed, Service by Service; a refused one in its last good state."""
        return self._ports

    @property
    def adopted(self) -> frozenset[ServiceName]:
        """Services of an earlier process that no update has named yet."""
        return frozenset(self._adopted)

    def adopt(self, snapshot: Snapshot) -> None:
        """Take over what an earlier process left, before the first update.

        What makes no sense in the snapshot is not taken over; its ids and slots stay unused
        for a while, and the next `audit` removes it.
        """
        adopted = read_tables(snapshot, self._layouts, self._capacity)
        adopted.fill(self._ledger, self._table)
        self._is_corrected = False
        for key in adopted.programmed:
            self._adopted.setdefault(key.service, []).append(key)

    def update(
        self,
        ports_by_service: Mapping[ServiceName, Sequence[ServicePort]],
        node_addresses: Mapping[bytes, int] | None = None,
    ) -> list[Op]:
        """Return the operations after these Services changed; `()` says one is gone.

        Services not named stay as they are, and so do node addresses if None. A Service
        that does not fit is left in its last good state; see `problems`.
        """
        changes = Changes()
        if node_addresses is not None:
            self._set_node_addresses(node_addresses, changes)
        wanted = self._changed(ports_by_service) + self._worth_another_try(ports_by_service)
        self._take(wanted, changes)
        self._is_corrected = True
        return changes.operations(self._layouts)

    def full(
        self,
        ports_by_service: Mapping[ServiceName, Sequence[ServicePort]],
        node_addresses: Mapping[bytes, int] | None = None,
    ) -> list[Op]:
        """Return the operations that leave exactly these Services."""
        known = self._ports.keys() | self._adopted.keys() | self._refused.keys()
        gone: dict[ServiceName, Sequence[ServicePort]] = dict.fromkeys(
            known - ports_by_service.keys(), ()
        )
        return self.update({**ports_by_service, **gone}, node_addresses)

    def audit(self, snapshot: Snapshot, *, is_complete: bool = True) -> list[Op]:
        """Return the repairs that turn the actual tables into the desired ones; [] if equal.

        Services that were adopted but that no update has named since do not exist any more,
        unless the updates so far are not complete: then nothing is deleted.
        """
        if is_complete:
            # what is to be written for that, compare() finds as well
            self._take([(name, ()) for name in self._adopted], Changes())
        repairs = compare(snapshot, self._ledger, self._table).repairs(self._layouts)
        return repairs if is_complete else [op for op in repairs if op.values is not None]

    def reclaim(self) -> bool:
        """Let what was given up two calls ago be used again.

        Call at most once a second: a program in the kernel may still read an old run.
        Returns True if a refused Service might fit now: then call `update({})`. Does
        nothing between `adopt` and the first update: what was adopted half written is
        corrected by that.
        """
        if not self._is_corrected:
            return False
        self._ledger.reclaim()
        return any(self._may_fit(refused) for refused in self._refused.values())

    def problems(self) -> list[Problem]:
        """Services refused for want of room, frontends lost to others; sorted."""
        refused = [
            Problem(
                f"Service {name}",
                f"{refused.error}; {self._fate(name)}, restart the agent with a larger"
                f" {refused.error.map_name} map to serve it",
                is_error=True,
                reason=ProblemReason.MAP_FULL,
            )
            for name, refused in self._refused.items()
        ]
        node = [self._node_problem] if self._node_problem else []
        return sorted([*refused, *node, *self._claims.conflicts()])

    # ---- one update, step by step

    def _changed(
        self, ports_by_service: Mapping[ServiceName, Sequence[ServicePort]]
    ) -> list[_Wanted]:
        """Return what differs from the state now."""
        wanted: list[_Wanted] = []
        for name, given in ports_by_service.items():
            ports = tuple(given)
            refused = self._refused.get(name)
            if refused is not None and refused.ports == ports and not self._may_fit(refused):
                continue
            known = name in self._adopted or refused is not None
            if known or self._ports.get(name, ()) != ports:
                wanted.append((name, ports))
        return wanted

    def _worth_another_try(self, besides: Container[ServiceName]) -> list[_Wanted]:
        return [
            (name, refused.ports)
            for name, refused in self._refused.items()
            if name not in besides and self._may_fit(refused)
        ]

    def _take(self, wanted: Sequence[_Wanted], changes: Changes) -> None:
        """Make these Services so, as far as they fit."""
        for name, _ in wanted:
            self._refused.pop(name, None)
        # room that this very update frees is there for the next one only: a plan puts first
        admitted = self._program(wanted, changes)
        affected: set[ServiceName] = set()
        before: dict[ServiceName, list[ServicePortKey]] = {}
        for name, ports in admitted:
            before[name] = self._forget(name)
            if ports:
                self._ports[name] = ports
            affected |= self._claims.update(name, ports)
        self._lead(before, affected, changes)

    def _program(self, wanted: Sequence[_Wanted], changes: Changes) -> list[_Wanted]:
        """Give all of them ids and slots, or halve until only those that do not fit are left."""
        if not wanted:
            return []
        ports = [port for _, some in wanted for port in self._new_or_changed(some)]
        try:
            with self._table.reserve(port.frontends for port in ports):
                self._ledger.program(Draft(self._ledger, ports), changes)
        except CapacityError as error:
            if len(wanted) == 1:
                name, refused_ports = wanted[0]
                self._refused[name] = _Refused(refused_ports, error)
                return []
            half = len(wanted) // 2
            return self._program(wanted[:half], changes) + self._program(wanted[half:], changes)
        return list(wanted)

    def _new_or_changed(self, ports: Iterable[ServicePort]) -> Iterable[ServicePort]:
        programmed = self._ledger.programmed
        for port in ports:
            record = programmed.get(port.key)
            if record is None or record.port != port:
                yield port

    def _forget(self, name: ServiceName) -> list[ServicePortKey]:
        """Drop what is known of a Service; return its Service ports until now."""
        adopted = self._adopted.pop(name, [])
        return [*adopted, *(port.key for port in self._ports.pop(name, ()))]

    def _lead(
        self,
        before: Mapping[ServiceName, list[ServicePortKey]],
        affected: Iterable[ServiceName],
        changes: Changes,
    ) -> None:
        """Let frontends lead to their owners, then withdraw Service ports that are gone."""
        ledger = self._ledger
        puts: dict[FrontendKey, FrontendRow] = {}
        left: set[tuple[FrontendKey, int]] = set()  # led to this service id until now
        for name in dict.fromkeys([*before, *sorted(affected)]):
            for port in self._ports.get(name, ()):
                record = ledger.programmed[port.key]
                owned = self._claims.owned(port)
                if record.owned and record.owned is not owned:
                    left.update((f.key, record.service_id) for f in record.owned)
                record.owned = owned
                for frontend in owned:
                    puts[frontend.key] = FrontendRow(
                        record.service_id,
                        port.affinity_timeout_s,
                        record.cluster,
                        record.local,
                        frontend.policy_local,
                        frontend.kind,
                        frontend.kind == _LOAD_BALANCER and bool(port.source_ranges),  # R81
                    )
        removed: list[ServicePortKey] = []
        for name, keys in before.items():
            if keys:
                kept = {port.key for port in self._ports.get(name, ())}
                removed += [key for key in keys if key not in kept]
        for key in removed:
            record = ledger.programmed[key]
            left.update((f.key, record.service_id) for f in record.owned)
        # a key may lead elsewhere by now: another Service took it from an adopted one
        gone = {
            key
            for key, service_id in left
            if key not in puts and self._table.service_id(key) == service_id
        }
        self._table.write(puts, gone, changes)
        if removed:
            ledger.remove(removed, changes)

    def _set_node_addresses(self, flags: Mapping[bytes, int], changes: Changes) -> None:
        try:
            self._table.set_node_addresses(flags, changes)
            self._node_problem = None
        except CapacityError as error:
            self._node_problem = Problem(
                "Node addresses",
                f"{error}; NodePorts are served on the former ones",
                is_error=True,
                reason=ProblemReason.MAP_FULL,
            )

    def _may_fit(self, refused: _Refused) -> bool:
        free = {
            MapName.SERVICES: self._ledger.service_ids.free,
            MapName.BACKENDS: self._ledger.backend_ids.free,
            MapName.SLOTS: self._ledger.runs.largest,
            MapName.SOURCE_RANGES: self._ledger.source_ranges.room,
            MapName.FRONTENDS: self._table.room(MapName.FRONTENDS),
            MapName.ADDRESSES: self._table.room(MapName.ADDRESSES),
        }
        return free[MapName(refused.error.map_name)] >= refused.error.needed

    def _fate(self, name: ServiceName) -> str:
        return "it stays as it was" if name in self._ports else "it is not served"
