# SPDX-License-Identifier: Apache-2.0
"""The objects, their versions and what happened to them: etcd and the watch cache in one.

One counter gives every write its revision, whatever the kind, and a write's revision is
the object's resourceVersion. History can be compacted, and everything put back to an
earlier state with an earlier revision, as a restored backup does.
"""

from __future__ import annotations

import asyncio
import copy
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.apiserver.selectors import Selector

Manifest = dict[str, Any]
Key = tuple[str, str]  # namespace, name

FIRST_REVISION = 1000


class Kind(NamedTuple):
    plural: str
    kind: str
    api_version: str
    is_namespaced: bool

    @property
    def prefix(self) -> str:
        return (
            f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        )


KINDS = {
    kind.plural: kind
    for kind in (
        Kind("services", "Service", "v1", True),
        Kind("nodes", "Node", "v1", False),
        Kind("endpointslices", "EndpointSlice", "discovery.k8s.io/v1", True),
    )
}


@dataclass(frozen=True, slots=True)
class Stored:
    manifest: Mapping[str, Any]
    data: bytes  # the same as JSON


class Event(NamedTuple):
    revision: int
    plural: str
    old: Stored | None
    new: Stored | None


@dataclass(slots=True)
class Backup:
    revision: int
    items: dict[str, dict[Key, Stored]]


@dataclass(slots=True)
class Objects:
    revision: int = FIRST_REVISION
    compacted: int = FIRST_REVISION  # history begins after this revision
    history: list[Event] = field(default_factory=list)
    items: dict[str, dict[Key, Stored]] = field(default_factory=lambda: {k: {} for k in KINDS})
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, plural: str, manifest: Mapping[str, Any]) -> int:
        """Create or replace; return the revision."""
        kind = KINDS[plural]
        item = copy.deepcopy(dict(manifest))
        meta = item.setdefault("metadata", {})
        if kind.is_namespaced:
            meta.setdefault("namespace", "default")
        key = (meta.get("namespace", ""), meta["name"])
        meta["resourceVersion"] = str(self.revision + 1)
        item["kind"], item["apiVersion"] = kind.kind, kind.api_version
        stored = Stored(item, json.dumps(item, ensure_ascii=False).encode())
        self._write(plural, key, stored)
        return self.revision

    def delete(self, plural: str, name: str, namespace: str = "default") -> bool:
        key = (namespace if KINDS[plural].is_namespaced else "", name)
        if key not in self.items[plural]:
            return False
        self._write(plural, key, None)
        return True

    def compact(self) -> None:
        """Forget all history: versions before now are 410 Gone."""
        self.compacted = self.revision
        self.history.clear()

    def backup(self) -> Backup:
        return Backup(self.revision, {plural: dict(items) for plural, items in self.items.items()})

    def restore(self, backup: Backup) -> None:
        """Be as then, revision included: later ones are in nobody's history any more."""
        self.revision = self.compacted = backup.revision
        self.items = {plural: dict(items) for plural, items in backup.items.items()}
        self.history.clear()

    def listed(self, plural: str, chosen: Selector) -> list[tuple[Key, Stored]]:
        return [
            (key, stored)
            for key, stored in sorted(self.items[plural].items())
            if chosen(stored.manifest)
        ]

    def since(self, revision: int) -> list[Event]:
        return self.history[bisect_right(self.history, revision, key=lambda e: e.revision) :]

    async def wait_change(self, timeout_s: float) -> None:
        """Until the next write, or not so long."""
        changed = self.changed
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except TimeoutError:
            return

    def _write(self, plural: str, key: Key, new: Stored | None) -> None:
        self.revision += 1
        old = self.items[plural].get(key)
        if new is None:
            del self.items[plural][key]
        else:
            self.items[plural][key] = new
        self.history.append(Event(self.revision, plural, old, new))
        self.changed.set()  # wakes those who wait now; later ones wait for the next write
        self.changed = asyncio.Event()
