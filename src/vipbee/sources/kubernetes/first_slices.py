# SPDX-License-Identifier: Apache-2.0
"""The first EndpointSlices after a restart: are they all? No I/O, no clock.

An earlier process left Services with endpoints in the kernel. If the first list has no slice
of most of them, it is more often the server's fault than true (F17), and to program it would
take the backends of Services that work. So it is not told until slices come, or for the
guard's time; meanwhile the tables stay as they are, as if the server did not answer yet (F1).
Only Services that are still listed are in doubt: one that is gone itself needs no slices, and
whether it is gone is mirror.py's question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from vipbee.core.store import SERVICE_NAME_LABEL
from vipbee.errors import SourceError
from vipbee.model import ApiObject, ServiceName
from vipbee.sources.events import Failed, Removed, SourceEvent
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.mirror import MassDeleteGuard, Mirror
from vipbee.sources.kubernetes.wire import Batch

SOURCE = "API server: endpointslices, programmed before"


class FirstSlices:
    """A Mirror of EndpointSlices, told from the moment on that it is believed.

    `served` are the Services that had endpoints; `listed_services` says which exist now, None
    while that is not known. Call `weigh` when it changes.
    """

    def __init__(
        self,
        mirror: Mirror,
        guard: MassDeleteGuard,
        served: Collection[ServiceName],
        listed_services: Callable[[], Collection[ServiceName] | None],
    ) -> None:
        self._mirror = mirror
        self._guard = guard
        self._served = frozenset(served)
        self._listed_services = listed_services
        self._is_listed = False
        self._has_complained = False
        self.is_told = False
        """What was listed has been told."""

    @property
    def is_holding(self) -> bool:
        return (self._is_listed and not self.is_told) or self._mirror.is_holding

    def listed(self, listing: Listing) -> list[SourceEvent]:
        events = self._mirror.listed(listing)
        self._is_listed = True
        return events if self.is_told else self.weigh()

    def changed(self, batch: Batch) -> list[SourceEvent]:
        events = self._mirror.changed(batch)
        return events if self.is_told else self.weigh()

    def release(self) -> list[SourceEvent]:
        return self._mirror.release() if self.is_told else self._tell()

    def weigh(self) -> list[SourceEvent]:
        """Ask again whether what was listed is to be believed."""
        if self.is_told or not self._is_listed:
            return []
        existing = self._listed_services()
        known = self._served if existing is None else self._served & frozenset(existing)
        missing = known - {owner for item in self._mirror.objects if (owner := _owner(item))}
        if not self._guard.trips(len(known), len(missing)):
            return self._tell()
        if self._has_complained or existing is None:
            return []
        self._has_complained = True
        doubt = (
            f"lists no endpointslices of {len(missing)} of {len(known)} Services that were"
            f" served: nothing is changed for {self._guard.hold_s:.0f} s; if it is not meant, check"
            " the API server and RBAC"
        )
        return [Failed(SOURCE, SourceError(doubt))]

    def _tell(self) -> list[SourceEvent]:
        self.is_told = True
        events: list[SourceEvent] = [self._mirror.loaded()]
        if self._has_complained:
            events.append(Removed(SOURCE))
        return events


def _owner(item: ApiObject) -> ServiceName | None:
    name = (item.metadata.labels or {}).get(SERVICE_NAME_LABEL)
    return ServiceName(item.metadata.namespace, name) if name else None
