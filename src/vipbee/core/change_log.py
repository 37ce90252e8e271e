# SPDX-License-Identifier: Apache-2.0
"""What changed and is not in force yet: counts by family, and since when endpoints wait.

For metrics only (R106, R108); nothing is decided by it.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

from vipbee.model import EndpointSlice, Service

TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
MAX_TRIGGERS = 10_000
"""Kept while nothing can be programmed; what is beyond is not measured."""

_FAMILIES = {"IPv4": 4, "IPv6": 6}


class Trigger(NamedTuple):
    """The first of the changes of pods that led to a new EndpointSlice."""

    family: int
    unix_s: float


class Counts:
    """Changes by family: since start, and of those the ones not programmed yet."""

    def __init__(self) -> None:
        self.total: Counter[int] = Counter()
        self.pending: Counter[int] = Counter()

    def add(self, family: int) -> None:
        self.total[family] += 1
        self.pending[family] += 1


class ChangeLog:
    """`since_unix_s`: triggers before it are somebody else's delay, not this process' (R108)."""

    def __init__(self, since_unix_s: float = 0.0) -> None:
        self.services = Counts()
        self.endpoints = Counts()
        self._since_unix_s = since_unix_s
        self._triggers: list[Trigger] = []

    def note_service(self, old: Service | None, new: Service | None) -> None:
        """`old` became `new`; None: there was or is none."""
        for family in {family for item in (old, new) if item for family in _families(item)}:
            self.services.add(family)

    def note_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        """The same for a slice. One that is gone waits for nothing."""
        item = new or old
        family = _FAMILIES.get(item.addressType) if item is not None else None
        if family is None:
            return
        self.endpoints.add(family)
        when = trigger_time(new) if new is not None else None
        if when is None or when < self._since_unix_s or len(self._triggers) >= MAX_TRIGGERS:
            return
        self._triggers.append(Trigger(family, when))

    def settle(self) -> list[Trigger]:
        """Everything is in force now: return the triggers that led to it."""
        self.services.pending.clear()
        self.endpoints.pending.clear()
        triggers, self._triggers = self._triggers, []
        return triggers


def trigger_time(item: EndpointSlice) -> float | None:
    """Unix seconds of the slice's annotation; None if there is none or it is no time."""
    text = (item.metadata.annotations or {}).get(TRIGGER_ANNOTATION)
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.timestamp() if when.tzinfo else when.replace(tzinfo=UTC).timestamp()


def _families(service: Service) -> list[int]:
    texts = service.spec.clusterIPs or [service.spec.clusterIP]
    return [6 if ":" in text else 4 for text in texts if text not in ("", "None")]
