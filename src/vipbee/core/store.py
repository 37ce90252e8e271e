# SPDX-License-Identifier: Apache-2.0
"""The objects as last seen, joined: which Services exist and which slices are theirs.

Holds whole objects and nothing derived but the index from Service to slices, so the
order of events cannot matter (R7): the content after any interleaving is that of a
fresh list. Says which Services a change may concern; what it means for them is
`select`'s business. Label rules R2–R6 are applied here, so nobody else sees an object
that does not count.

An object may stand in several sources (files of a directory). Then the source whose
name sorts first wins, and the duplicate is reported.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from vipbee.core.change_log import ChangeLog
from vipbee.model import (
    ApiObject,
    EndpointSlice,
    Node,
    Problem,
    Service,
    ServiceCIDR,
    ServiceName,
)

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be computed anew: these Services, and the NodeView if `node`."""

    services: set[ServiceName] = field(default_factory=set)
    node: bool = False

    def __or__(self, other: Changes) -> Changes:
        return Changes(self.services | other.services, self.node or other.node)

    def __bool__(self) -> bool:
        return bool(self.services) or self.node


class Store:
    """Objects by source; every method is idempotent. Not thread-safe.

    `log` is told of every object that became another.
    """

    def __init__(self, log: ChangeLog | None = None) -> None:
        self._log = log or ChangeLog()
        self._services: _Shelf[Service] = _Shelf()
        self._slices: _Shelf[EndpointSlice] = _Shelf()
        self._nodes: _Shelf[Node] = _Shelf()
        self._cidrs: _Shelf[ServiceCIDR] = _Shelf()
        self._slices_of: dict[ServiceName, tuple[EndpointSlice, ...]] = {}

    # ---- changing

    def replace(self, source: str, objects: Sequence[ApiObject]) -> Changes:
        """Take `objects` as all there is in `source` now.

        Of two different objects with one name in the list the first counts.
        """
        services: dict[ServiceName, Service] = {}
        slices: dict[ServiceName, EndpointSlice] = {}
        nodes: dict[ServiceName, Node] = {}
        cidrs: dict[ServiceName, ServiceCIDR] = {}
        repeated: set[tuple[str, ServiceName]] = set()
        for item in objects:
            name = _name_of(item)
            kept: ApiObject
            if isinstance(item, Service):
                kept = services.setdefault(name, item)
            elif isinstance(item, EndpointSlice):
                kept = slices.setdefault(name, item)
            elif isinstance(item, ServiceCIDR):
                kept = cidrs.setdefault(name, item)
            else:
                kept = nodes.setdefault(name, item)
            if kept is not item and kept != item:
                repeated.add((type(item).__name__, name))
        self._services.note_repeated(source, {n for kind, n in repeated if kind == "Service"})
        self._slices.note_repeated(source, {n for kind, n in repeated if kind == "EndpointSlice"})
        self._nodes.note_repeated(source, {n for kind, n in repeated if kind == "Node"})
        self._cidrs.replace(source, cidrs)
        return self._settle(
            self._services.replace(source, services),
            self._slices.replace(source, slices),
            self._nodes.replace(source, nodes),
        )

    def upsert(self, source: str, item: ApiObject) -> Changes:
        """Add one object to `source`, or take its new version."""
        name = _name_of(item)
        if isinstance(item, Service):
            return self._settle(services=self._services.put(source, name, item))
        if isinstance(item, EndpointSlice):
            return self._settle(slices=self._slices.put(source, name, item))
        if isinstance(item, ServiceCIDR):
            self._cidrs.put(source, name, item)
            return Changes()
        return self._settle(nodes=self._nodes.put(source, name, item))

    def delete(self, source: str, kind: str, namespace: str, name: str) -> Changes:
        """Remove one object of `source`; `kind` as in Kubernetes. Unknown ones are no error."""
        if kind == "Service":
            return self._settle(services=self._services.drop(source, ServiceName(namespace, name)))
        if kind == "EndpointSlice":
            return self._settle(slices=self._slices.drop(source, ServiceName(namespace, name)))
        if kind == "ServiceCIDR":
            self._cidrs.drop(source, ServiceName("", name))
            return Changes()
        return self._settle(nodes=self._nodes.drop(source, ServiceName("", name)))

    # ---- reading

    def service(self, name: ServiceName) -> Service | None:
        """The Service, unless it does not exist or another proxy owns it (R2)."""
        service = self._services.get(name)
        return service if service is not None and _is_ours(service) else None

    def slices(self, name: ServiceName) -> tuple[EndpointSlice, ...]:
        """The Service's slices ordered by name; those of headless Services are left out (R3)."""
        return self._slices_of.get(name, ())

    def names(self) -> list[ServiceName]:
        """Every Service `service` would return, sorted."""
        return sorted(name for name, item in self._services if _is_ours(item))

    def nodes(self) -> list[Node]:
        """Every Node, sorted by name."""
        return [item for _, item in sorted(self._nodes, key=lambda pair: pair[0])]

    def service_cidrs(self) -> list[ServiceCIDR]:
        """Every ServiceCIDR; no Change tells of them, nothing is computed from them."""
        return [item for _, item in self._cidrs]

    def problems(self) -> list[Problem]:
        """Objects that stand in several sources, or differently twice in one."""
        return (
            self._services.problems("Service")
            + self._slices.problems("EndpointSlice")
            + self._nodes.problems("Node")
        )

    # ---- keeping the index

    def _settle(
        self,
        services: Iterable[_Change[Service]] = (),
        slices: Iterable[_Change[EndpointSlice]] = (),
        nodes: Iterable[_Change[Node]] = (),
    ) -> Changes:
        dirty: set[ServiceName] = set()
        for service in services:
            if any(item is not None and _is_ours(item) for item in (service.old, service.new)):
                dirty.add(service.name)
                self._log.note_service(service.old, service.new)
        for change in slices:
            old, new = _owner_of(change.old), _owner_of(change.new)
            if old is not None or new is not None:
                self._log.note_slice(change.old, change.new)
            if old is not None:
                self._unlink(old, change.name)
                dirty.add(old)
            if new is not None and change.new is not None:
                self._link(new, change.new)
                dirty.add(new)
        return Changes(dirty, any(True for _ in nodes))

    def _link(self, owner: ServiceName, item: EndpointSlice) -> None:
        others = list(self._slices_of.get(owner, ()))
        insort(others, item, key=_slice_name)
        self._slices_of[owner] = tuple(others)

    def _unlink(self, owner: ServiceName, name: ServiceName) -> None:
        rest = tuple(item for item in self._slices_of[owner] if item.metadata.name != name.name)
        if rest:
            self._slices_of[owner] = rest
        else:
            del self._slices_of[owner]


Item = TypeVar("Item", Service, EndpointSlice, Node, ServiceCIDR)


class _Change(NamedTuple, Generic[Item]):
    """The object that counts under `name` was `old` and is `new`; None: there is none."""

    name: ServiceName
    old: Item | None
    new: Item | None


class _Shelf(Generic[Item]):
    """Objects of one kind by source, and for each name the one that counts."""

    def __init__(self) -> None:
        self._by_source: dict[str, dict[ServiceName, Item]] = {}
        self._counts: dict[ServiceName, tuple[str, Item]] = {}
        # Only names that stand in more than one source: there are hardly ever any.
        self._shared: dict[ServiceName, set[str]] = {}
        self._repeated: dict[str, set[ServiceName]] = {}

    def __iter__(self) -> Iterator[tuple[ServiceName, Item]]:
        return ((name, item) for name, (_, item) in self._counts.items())

    def get(self, name: ServiceName) -> Item | None:
        counting = self._counts.get(name)
        return counting[1] if counting else None

    def replace(self, source: str, items: dict[ServiceName, Item]) -> list[_Change[Item]]:
        old = self._by_source.get(source, {})
        changes = []
        for name in [name for name in old if name not in items]:
            changes += self.drop(source, name)
        for name, item in items.items():
            before = old.get(name)
            if before is not item and before != item:
                changes += self.put(source, name, item)
        return changes

    def put(self, source: str, name: ServiceName, item: Item) -> list[_Change[Item]]:
        self._by_source.setdefault(source, {})[name] = item
        owner, old = self._counts.get(name, (None, None))
        if owner is not None and owner != source:
            self._shared.setdefault(name, {owner}).add(source)
            if owner < source:
                return []
        self._counts[name] = (source, item)
        return [] if old == item else [_Change(name, old, item)]

    def drop(self, source: str, name: ServiceName) -> list[_Change[Item]]:
        held = self._by_source.get(source)
        if held is None or held.pop(name, None) is None:
            return []
        if not held:
            del self._by_source[source]
        owner, old = self._counts[name]
        sources = self._shared.get(name, set())
        sources.discard(source)
        if len(sources) == 1:
            del self._shared[name]
        if owner != source:
            return []
        if not sources:
            del self._counts[name]
            return [_Change(name, old, None)]
        heir = min(sources)
        new = self._by_source[heir][name]
        self._counts[name] = (heir, new)
        return [] if old == new else [_Change(name, old, new)]

    def note_repeated(self, source: str, names: set[ServiceName]) -> None:
        self._repeated.pop(source, None)
        if names:
            self._repeated[source] = names

    def problems(self, kind: str) -> list[Problem]:
        found = []
        for name, sources in self._shared.items():
            first, *rest = sorted(sources)
            found.append((name, f"is taken from {first}; also in {', '.join(rest)}: keep one"))
        for source, names in self._repeated.items():
            found += [(name, f"stands twice in {source}, the first counts") for name in names]
        return [
            Problem(f"{kind} {name if name.namespace else name.name}", message, is_error=False)
            for name, message in sorted(found)
        ]


def _name_of(item: ApiObject) -> ServiceName:
    meta = item.metadata
    return ServiceName("" if isinstance(item, Node | ServiceCIDR) else meta.namespace, meta.name)


def _is_ours(service: Service) -> bool:
    labels = service.metadata.labels
    return not labels or PROXY_NAME_LABEL not in labels


def _owner_of(item: EndpointSlice | None) -> ServiceName | None:
    labels = item.metadata.labels if item is not None else None
    if item is None or not labels or HEADLESS_LABEL in labels:
        return None
    owner = labels.get(SERVICE_NAME_LABEL)
    return ServiceName(item.metadata.namespace, owner) if owner else None


def _slice_name(item: EndpointSlice) -> str:
    return item.metadata.name
