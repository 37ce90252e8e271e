# SPDX-License-Identifier: Apache-2.0
"""Services, EndpointSlices and the own Node of one API server, as one source.

One task a kind reads and decodes; what all of them have by the time the agent looks
again goes to it in one batch. There is no delay for batching: alone, an event is on its
way within a few turns of the loop. Only an agent that was busy with the last batch has as
long to wait, at most, for what piled up in the sockets meanwhile: with 50,000 endpoints in
one Service it would otherwise fall behind at 130 updates a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence

from vipbee.core.request_counts import RequestCounts
from vipbee.errors import SourceError
from vipbee.model import ServiceName
from vipbee.sources.events import Failed, ObjectName, Recovered, SourceEvent, Synced
from vipbee.sources.kubernetes.access import Access
from vipbee.sources.kubernetes.api_errors import Refused, RequestError
from vipbee.sources.kubernetes.client import ApiClient
from vipbee.sources.kubernetes.first_slices import FirstSlices
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.mirror import MassDeleteGuard, Mirror
from vipbee.sources.kubernetes.replicas import Replicas
from vipbee.sources.kubernetes.resources import (
    ENDPOINT_SLICES,
    SERVICE_CIDRS,
    SERVICES,
    Resource,
    own_node,
)
from vipbee.sources.kubernetes.timing import Timing
from vipbee.sources.kubernetes.watching import Step, Trouble, follow
from vipbee.sources.kubernetes.wire import Batch

DEFAULT_TIMING = Timing()
DEFAULT_GUARD = MassDeleteGuard()
MAX_REPORTS = 16
LONGEST_CATCH_UP_S = 0.5
TURNS_TO_INBOX = 4
"""Turns of the loop from a readable socket to an event: read, wake the task, decode."""
REPORTED_FAILURES = 2
"""Failures in a row of a kind that was listed before; one is an API server's restart."""


class KubernetesSource:
    """`load` reads how to reach the API server, at once (raises SourceError) and again later.

    `programmed` and `served` are Services that an earlier process left in the kernel, all and
    those with endpoints (F17); `replicas` are URLs it knew of (F3).
    """

    def __init__(
        self,
        load: Callable[[], Access],
        node_name: str,
        *,
        timing: Timing = DEFAULT_TIMING,
        guard: MassDeleteGuard = DEFAULT_GUARD,
        programmed: Collection[ServiceName] = (),
        served: Collection[ServiceName] = (),
        replicas: Sequence[str] = (),
        counts: RequestCounts | None = None,
    ) -> None:
        self._client = ApiClient(load, timing, counts)
        self._client.set_replicas(replicas)
        self._timing = timing
        self._hold_s = guard.hold_s
        left = [ObjectName(SERVICES.kind, *name) for name in programmed]
        self._services = Mirror(SERVICES, guard, left)
        self._slices = FirstSlices(
            Mirror(ENDPOINT_SLICES, guard), guard, served, self._listed_services
        )
        self._kinds = [
            _Kind(SERVICES, self._services),
            _Kind(ENDPOINT_SLICES, self._slices),
            _Kind(node := own_node(node_name), Mirror(node, guard)),
            _Kind(SERVICE_CIDRS, Mirror(SERVICE_CIDRS, guard)),
        ]
        self._replicas = Replicas()
        self._inbox: list[SourceEvent] = []
        self._wake = asyncio.Event()
        self._is_synced = False

    async def watch(self) -> AsyncGenerator[list[SourceEvent], None]:
        """Yield batches of events for ever; `Synced` is the last of its batch."""
        async with self._client:
            tasks = [
                asyncio.create_task(self._follow(kind), name=kind.resource.plural)
                for kind in self._kinds
            ]
            for task in tasks:
                task.add_done_callback(lambda _: self._wake.set())
            took_s = 0.0
            try:
                while True:
                    await self._wake.wait()
                    await self._catch_up(took_s)
                    self._wake.clear()
                    for task in tasks:
                        if task.done():
                            task.result()  # it never ends but by a programming error
                    batch, self._inbox = self._inbox, []
                    if batch:
                        started = time.monotonic()
                        yield batch
                        took_s = time.monotonic() - started
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for kind in self._kinds:
                    kind.stop()

    async def _catch_up(self, took_s: float) -> None:
        """Take in what waits in the sockets: until nothing comes, or for the time lost."""
        ends = time.monotonic() + min(took_s, LONGEST_CATCH_UP_S)
        idle_turns = 0
        while idle_turns < TURNS_TO_INBOX and time.monotonic() < ends:
            count = len(self._inbox)
            await asyncio.sleep(0)
            idle_turns = 0 if len(self._inbox) > count else idle_turns + 1

    async def _follow(self, kind: _Kind) -> None:
        async for step in follow(self._client, kind.resource, self._timing):
            if kind.resource is ENDPOINT_SLICES and self._replicas.take(step):
                self._client.set_replicas(self._replicas.urls)
            self._deliver(kind.take(step))
            if kind.resource is SERVICES:
                self._deliver(self._slices.weigh())
            for held in self._kinds:
                self._keep_time(held)

    def _listed_services(self) -> set[ServiceName] | None:
        if not self._services.is_told:
            return None
        metas = (item.metadata for item in self._services.objects)
        return {ServiceName(meta.namespace, meta.name) for meta in metas}

    def _keep_time(self, kind: _Kind) -> None:
        if kind.mirror.is_holding and kind.timer is None:
            kind.timer = asyncio.get_running_loop().call_later(self._hold_s, self._release, kind)
        elif not kind.mirror.is_holding:
            kind.stop()

    def _release(self, kind: _Kind) -> None:
        kind.timer = None
        self._deliver(kind.mirror.release())

    def _deliver(self, events: list[SourceEvent]) -> None:
        self._inbox += events
        if not self._is_synced and all(kind.is_settled for kind in self._kinds):
            self._is_synced = True
            self._inbox.append(Synced())
        if self._inbox:
            self._wake.set()


class _Kind:
    """Follows one kind: what it said, and whether it can be reached."""

    def __init__(self, resource: Resource, mirror: Mirror | FirstSlices) -> None:
        self.resource = resource
        self.mirror = mirror
        self.timer: asyncio.TimerHandle | None = None
        self._is_listed = False
        self._is_given_up = False  # refused for good, and can be done without
        self._failures = 0
        self._reported: set[str] = set()  # since it could be read last

    @property
    def is_settled(self) -> bool:
        """Nothing has to be waited for."""
        return self.mirror.is_told or self._is_given_up

    def take(self, step: Step) -> list[SourceEvent]:
        match step:
            case Listing():
                self._is_listed = True
                return self._recovered() + self.mirror.listed(step)
            case Batch():
                self._failures = 0
                return self.mirror.changed(step)
            case Trouble():
                return self._failed(step.error)
            case _:
                return self._recovered()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _failed(self, error: RequestError) -> list[SourceEvent]:
        if not self.resource.is_served:
            self._is_given_up = True
            return []  # nobody's Services are in doubt for it
        self._failures += 1
        is_final = isinstance(error, Refused) and error.is_final
        if is_final and not self.resource.is_required:
            self._is_given_up = True
        if self._is_listed and self._failures < REPORTED_FAILURES and not is_final:
            return []
        reason = str(error)
        if self._is_listed:
            reason += "; the last good state stays in force"
        if reason in self._reported or len(self._reported) >= MAX_REPORTS:
            return []  # several addresses fail in turn, for a day perhaps
        self._reported.add(reason)
        return [Failed(self.resource.source, SourceError(reason))]

    def _recovered(self) -> list[SourceEvent]:
        self._failures = 0
        if not self._reported:
            return []
        self._reported.clear()
        return [Recovered(self.resource.source)]
