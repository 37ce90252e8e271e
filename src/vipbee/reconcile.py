# SPDX-License-Identifier: Apache-2.0
"""From objects that changed to tables that changed: store → select → desired → tables.

Synchronous and without a clock: the agent decides when. Nothing is programmed before
`begin()`, which the agent calls once every source has delivered its first complete
list (R8); until then the tables stay as an earlier process left them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vipbee.abi import BackendFlag, Layouts, MapName
from vipbee.collection import collection_paused
from vipbee.core.allowed_addresses import ALL_ALLOWED, AllowedAddresses
from vipbee.core.change_log import ChangeLog
from vipbee.core.desired import Desired
from vipbee.core.health_checks import HealthCheck, HealthChecks
from vipbee.core.nodes import NodeView, address_flags, make_node_view
from vipbee.core.plan import Op
from vipbee.core.port_ranges import NODE_PORTS, PortRange
from vipbee.core.select import select
from vipbee.core.service_cidrs import Cidr, collect_cidrs
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.core.store import Changes, Store
from vipbee.core.tables import Tables
from vipbee.errors import CapacityError, KernelError
from vipbee.model import ApiObject, Node, Problem, ServiceName, ServicePort


class NodeSettings(NamedTuple):
    """What of the configuration decides which addresses serve, and which may be served."""

    name: str
    nodeport_addresses: str = "primary"
    packet_lb: bool = False
    node_port_range: PortRange = NODE_PORTS
    allowed: AllowedAddresses = ALL_ALLOWED
    bind_address: bytes | None = None  # the primary address of its family
    service_cidrs: tuple[Cidr, ...] = ()


class Applied(NamedTuple):
    """What one step wrote."""

    services: int  # Services looked at
    entries: int  # map entries written or deleted
    backends_withdrawn: bool  # UDP sockets may be stale now


class Reconciler:
    """Keeps `tables` equal to what the objects say."""

    def __init__(
        self,
        tables: Tables,
        layouts: Layouts,
        capacity: Capacity,
        settings: NodeSettings,
        changes: ChangeLog | None = None,
    ) -> None:
        self._tables = tables
        self._settings = settings
        self._store = Store(changes)
        self._desired = Desired(layouts, capacity)
        self._health_checks = HealthChecks()
        self._local_addresses: tuple[bytes, ...] = ()
        self._node: NodeView | None = None
        self._pending = Changes(set(), False)
        self._source_problems: dict[str, tuple[Problem, ...]] = {}
        self._select_problems: dict[ServiceName, tuple[Problem, ...]] = {}
        self._loaded: set[str] = set()
        self._unknown: set[str] = set()  # sources that never delivered: nothing is deleted
        self._has_adopted = False
        self._begun = False
        self._is_complete = False
        self._out_of_step = False

    # ---- what came in ------------------------------------------------------------------

    def adopt(self) -> Snapshot:
        """Take over ids and entries of an earlier process; once, before anything else."""
        with collection_paused():
            snapshot = self._tables.snapshot()
            self._desired.adopt(snapshot)
        self._has_adopted = True
        return snapshot

    def replace(
        self, source: str, objects: Sequence[ApiObject], problems: Sequence[Problem] = ()
    ) -> None:
        """`source` now consists of exactly these objects."""
        self._pending |= self._store.replace(source, objects)
        self._source_problems[source] = tuple(problems)
        self._unknown.discard(source)
        self._loaded.add(source)

    def change(
        self,
        source: str,
        objects: Sequence[ApiObject],
        deleted: Sequence[tuple[str, str, str]],
        problems: Sequence[Problem] = (),
    ) -> None:
        """Of `source` these objects are new or different and those (kind, namespace, name) gone."""
        changes = [self._store.upsert(source, item) for item in objects]
        changes += [self._store.delete(source, *name) for name in deleted]
        services = set[ServiceName]().union(*(change.services for change in changes))
        self._pending |= Changes(services, any(change.node for change in changes))
        self._source_problems[source] = tuple(problems)

    def fail(self, source: str, problem: Problem | None) -> None:
        """`source` cannot be read (its objects stay), or can again (None)."""
        key = f"\0{source}"
        if problem is None:
            self._source_problems.pop(key, None)
        else:
            self._source_problems[key] = (problem,)
            if source not in self._loaded:
                self._unknown.add(source)

    def remove_source(self, source: str) -> None:
        self.replace(source, ())
        self._loaded.discard(source)
        self._source_problems.pop(source, None)

    def set_local_addresses(self, addresses: Sequence[bytes]) -> None:
        """The node's interface addresses, preferred first."""
        if tuple(addresses) != self._local_addresses:
            self._local_addresses = tuple(addresses)
            self._pending |= Changes(set(), True)

    @property
    def node_name(self) -> str:
        return self._settings.name

    @property
    def begun(self) -> bool:
        return self._begun

    # ---- what goes out -----------------------------------------------------------------

    def begin(self) -> Applied:
        """The first programming: everything known, and nothing else, is served.

        While a source has never delivered, what an earlier process programmed stays: it
        may be that source's. `program` makes up for it once all are known.
        """
        self._node = self._node_view()
        self._pending = Changes(set(), False)
        self._begun = True
        self._is_complete = not self._unknown
        plan = self._desired.full if self._is_complete else self._desired.update
        with collection_paused():
            ports = self._select_all()
            return self._apply(plan(ports, address_flags(self._node)), len(ports))

    def program(self) -> Applied:
        """Apply what came in since the last call; cheap if nothing did."""
        if not self._begun:
            return Applied(0, 0, False)
        if not self._is_complete and not self._unknown:
            return self.begin()  # also if nothing changed: the unreadable file was removed
        if not self._pending:
            return Applied(0, 0, False)
        pending, self._pending = self._pending, Changes(set(), False)
        flags = None
        if pending.node and (view := self._node_view()) != self._node:
            self._node = view
            # () for those that are gone: they are pending but no longer in the store
            ports = dict.fromkeys(pending.services, ()) | self._select_all()
            flags = address_flags(view)
        else:
            ports = {name: self._select(name) for name in pending.services}
        return self._apply(self._desired.update(ports, flags), len(ports))

    def audit(self) -> Applied:
        """Compare the tables with what should be there and repair the difference (R130).

        While a source has never delivered, what is missing is put back and nothing deleted.
        """
        if not self._begun:
            return Applied(0, 0, False)
        self._out_of_step = False
        repairs = self._desired.audit(self._tables.snapshot(), is_complete=self._is_complete)
        return self._apply(repairs, 0)

    def reclaim(self) -> Applied:
        """Let given-up ids and slots be used again; call about once a second."""
        if self._desired.reclaim() and self._begun:
            return self._apply(self._desired.update({}), 0)
        return Applied(0, 0, False)

    @property
    def out_of_step(self) -> bool:
        """A write failed: `audit` before trusting the tables."""
        return self._out_of_step

    @property
    def needs_audit(self) -> bool:
        """The tables may hold what nobody wrote of late: not if they were new, and are written."""
        return self._has_adopted or self._out_of_step

    @property
    def is_in_force(self) -> bool:
        """Everything that is known is programmed: no write failed since the last repair."""
        return self._begun and not self._out_of_step

    @property
    def serves_all(self) -> bool:
        """As `is_in_force`, and every source has been read: nobody else need serve."""
        return self.is_in_force and self._is_complete

    def problems(self) -> list[Problem]:
        """Everything an operator must know, without duplicates, in a stable order."""
        found = [p for problems in self._source_problems.values() for p in problems]
        found += self._store.problems()
        found += collect_cidrs(self._settings.service_cidrs, self._store.service_cidrs())[1]
        found += [p for problems in self._select_problems.values() for p in problems]
        found += self._desired.problems()
        return sorted(set(found))

    def own_node(self) -> Node | None:
        """The Node object of this very node, if a source has it (R9)."""
        for node in self._store.nodes():
            if node.metadata.name == self._settings.name:
                return node
        return None

    def service_cidrs(self) -> tuple[Cidr, ...]:
        """Where ClusterIPs are taken from, as far as anybody said so."""
        return collect_cidrs(self._settings.service_cidrs, self._store.service_cidrs())[0]

    def health_checks(self) -> Mapping[ServiceName, HealthCheck]:
        """What is programmed means for load balancers; the same object while nothing changed."""
        return self._health_checks.refresh(self._desired.ports)

    def node_port_addresses(self) -> tuple[bytes, ...]:
        """Addresses of this node that NodePorts are served on."""
        return self._node.own_addresses if self._node else ()

    def find_uid(self, kind: str, namespace: str, name: str) -> str:
        """metadata.uid of an object that was read, "" if it is not known."""
        found: ApiObject | None = None
        if kind == "Service":
            found = self._store.service(ServiceName(namespace, name))
        elif kind == "Node" and (node := self.own_node()) and node.metadata.name == name:
            found = node
        return found.metadata.uid if found is not None else ""

    def adopted_services(self) -> frozenset[ServiceName]:
        """What an earlier process programmed and no source has confirmed yet."""
        return self._desired.adopted

    def counts(self) -> tuple[int, int]:
        """(Services programmed, Service ports programmed)."""
        ports = self._desired.ports
        return len(ports), sum(len(p) for p in ports.values())

    # ---- steps -------------------------------------------------------------------------

    def _node_view(self) -> NodeView:
        return make_node_view(
            self._settings.name,
            self._store.nodes(),
            self._local_addresses,
            self._settings.nodeport_addresses,
            packet_lb=self._settings.packet_lb,
            node_port_range=self._settings.node_port_range,
            allowed=self._settings.allowed,
            bind_address=self._settings.bind_address,
        )

    def _select_all(self) -> dict[ServiceName, tuple[ServicePort, ...]]:
        self._select_problems.clear()
        names = self._store.names()
        self._health_checks.retain(names)
        return {name: self._select(name) for name in names}

    def _select(self, name: ServiceName) -> tuple[ServicePort, ...]:
        self._select_problems.pop(name, None)
        service = self._store.service(name)
        self._health_checks.note(name, service)
        if service is None:
            return ()
        assert self._node is not None
        selection = select(service, self._store.slices(name), self._node)
        if selection.problems:
            self._select_problems[name] = selection.problems
        return selection.ports

    def _apply(self, operations: Sequence[Op], services: int) -> Applied:
        entries = 0
        withdrawn = False
        try:
            for operation in operations:
                self._tables.apply(operation)
                entries += len(operation)
                withdrawn = withdrawn or _withdraws(operation)
        except (KernelError, CapacityError):
            # The plan counts on entries that are not there: compare before going on.
            self._out_of_step = True
            raise
        return Applied(services, entries, withdrawn)


def _withdraws(operation: Op) -> bool:
    if operation.map != MapName.BACKENDS or operation.values is None:
        return False
    return bool(np.any(operation.values["flags"] & BackendFlag.SERVING == 0))
