# SPDX-License-Identifier: Apache-2.0
"""What one kind consists of, and what of that the agent is told. No I/O, no clock.

Between the API server and the agent for one reason: a list that suddenly lacks most of
what was there is more often a restored backup, a wrong cluster or a faulty server than
the wish of an operator (F17). What it lacks is kept for a while and reported. A deletion
that is *said*, by a watch event, is always believed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vipbee.errors import SourceError
from vipbee.model import ApiObject, Problem
from vipbee.sources.events import Changed, Failed, Loaded, ObjectName, Removed, SourceEvent
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.resources import Resource
from vipbee.sources.kubernetes.wire import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class MassDeleteGuard:
    """`share` of more than `minimum` objects lost in one list: keep them for `hold_s`; 0: off."""

    share: float = 0.5
    minimum: float = 20
    hold_s: float = 300.0

    def trips(self, known: int, lost: int) -> bool:
        return self.hold_s > 0 and known > self.minimum and lost > self.share * known


class Mirror:
    """One kind. After `is_holding` turns true call `release` when the guard's time is over.

    `programmed` are names an earlier process programmed. Of those only the names are known,
    so a first list that lacks most of them cannot be completed; instead a source that
    `Failed` stands for them, which keeps anything from being deleted.
    """

    def __init__(
        self,
        resource: Resource,
        guard: MassDeleteGuard,
        programmed: Collection[ObjectName] = (),
    ) -> None:
        self._resource = resource
        self._guard = guard
        self._known: dict[ObjectName, ApiObject] = {}
        self._broken: dict[ObjectName, Problem] = {}
        self._held: set[ObjectName] = set()  # in `known`, but not in the last list
        self._programmed = set(programmed)
        self._awaited: set[ObjectName] = set()  # of `programmed`, not seen yet
        self._is_listed = False

    @property
    def is_told(self) -> bool:
        """What was listed has been told; only FirstSlices ever waits with it."""
        return self._is_listed

    @property
    def objects(self) -> Collection[ApiObject]:
        """All there are, held ones too."""
        return self._known.values()

    def loaded(self) -> Loaded:
        """The whole state as an event."""
        return Loaded(self._resource.source, tuple(self._known.values()), self._problems())

    @property
    def is_holding(self) -> bool:
        return bool(self._held or self._awaited)

    def listed(self, listing: Listing) -> list[SourceEvent]:
        """A complete list came in."""
        objects = dict(listing.objects)
        for name in listing.broken.keys() & self._known.keys():
            objects[name] = self._known[name]
        self._broken = dict(listing.broken)
        self._held.clear()
        lost = self._known.keys() - objects.keys()
        if self._trips(len(self._known), len(lost)):
            self._held = lost
            objects.update((name, self._known[name]) for name in lost)
        self._known = objects
        events: list[SourceEvent] = [self.loaded()]
        if not self._is_listed:
            self._is_listed = True
            missing = self._programmed - objects.keys()
            if self._trips(len(self._programmed), len(missing)):
                self._awaited = missing
                events.insert(0, Failed(self._awaited_source, SourceError(self._doubt())))
        return events

    def changed(self, batch: Batch) -> list[SourceEvent]:
        """Watch events came in; those that change nothing lead to nothing."""
        objects: list[ApiObject] = []
        deleted: list[ObjectName] = []
        problems = self._problems()
        for name, item in batch.objects.items():
            self._broken.pop(name, None)
            self._held.discard(name)
            if item is None:
                if self._known.pop(name, None) is not None:
                    deleted.append(name)
            elif self._known.get(name) != item:
                self._known[name] = item
                objects.append(item)
        self._broken.update(batch.broken)
        events: list[SourceEvent] = []
        now = self._problems()
        if objects or deleted or now != problems:
            events.append(Changed(self._resource.source, tuple(objects), tuple(deleted), now))
        if self._awaited:
            self._awaited -= batch.objects.keys()
            if not self._awaited:
                events.append(Removed(self._awaited_source))
        return events

    def release(self) -> list[SourceEvent]:
        """The time is over: what is still not there is gone."""
        events: list[SourceEvent] = []
        if self._held:
            deleted, self._held = tuple(self._held), set()
            for name in deleted:
                del self._known[name]
            events.append(Changed(self._resource.source, (), deleted, self._problems()))
        if self._awaited:
            self._awaited.clear()
            events.append(Removed(self._awaited_source))
        return events

    def _trips(self, known: int, lost: int) -> bool:
        return self._resource.is_guarded and self._guard.trips(known, lost)

    def _problems(self) -> tuple[Problem, ...]:
        problems = [self._broken[name] for name in sorted(self._broken)]
        if self._held:
            known, lost = len(self._known), len(self._held)
            problems.append(Problem(self._resource.source, self._complaint(known, lost), True))
        return tuple(problems)

    @property
    def _awaited_source(self) -> str:
        return f"{self._resource.source}, programmed before"

    def _doubt(self) -> str:
        return self._complaint(len(self._programmed), len(self._awaited))

    def _complaint(self, known: int, lost: int) -> str:
        return (
            f"lists {lost} of {known} {self._resource.plural} no longer: they are kept for"
            f" {self._guard.hold_s:.0f} s; if it is not meant, check the API server and RBAC"
        )
