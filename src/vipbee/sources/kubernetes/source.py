# SPDX-License-Identifier: Apache-2.0
"""Services, EndpointSlices and the own Node of one API server, as one source.

One task a kind reads and decodes; what all of them have by the time the agent looks
again goes to it in one batch. There is no delay for batching: alone, an event is on its
way within the turn of the loop it came in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection

from vipbee.errors import SourceError
from vipbee.model import ServiceName
from vipbee.sources.events import Failed, ObjectName, Recovered, SourceEvent, Synced
from vipbee.sources.kubernetes.access import Access
from vipbee.sources.kubernetes.api_errors import Refused, RequestError
from vipbee.sources.kubernetes.client import ApiClient
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.mirror import MassDeleteGuard, Mirror
from vipbee.sources.kubernetes.replicas import Replicas
from vipbee.sources.kubernetes.resources import ENDPOINT_SLICES, SERVICES, Resource, own_node
from vipbee.sources.kubernetes.timing import Timing
from vipbee.sources.kubernetes.watching import Step, Trouble, follow
from vipbee.sources.kubernetes.wire import Batch

DEFAULT_TIMING = Timing()
DEFAULT_GUARD = MassDeleteGuard()
REPORTED_FAILURES = 2
"""Failures in a row of a kind that was listed before; one is an API server's restart."""


class KubernetesSource:
    """`load` reads how to reach the API server, at once (raises SourceError) and again later.

    `programmed` asks which Services an earlier process left in the kernel (F17).
    """

    def __init__(
        self,
        load: Callable[[], Access],
        node_name: str,
        *,
        timing: Timing = DEFAULT_TIMING,
        guard: MassDeleteGuard = DEFAULT_GUARD,
        programmed: Collection[ServiceName] = (),
    ) -> None:
        self._client = ApiClient(load, timing)
        self._timing = timing
        self._hold_s = guard.hold_s
        left = [ObjectName(SERVICES.kind, *name) for name in programmed]
        self._kinds = [
            _Kind(SERVICES, Mirror(SERVICES, guard, left)),
            _Kind(ENDPOINT_SLICES, Mirror(ENDPOINT_SLICES, guard)),
            _Kind(node := own_node(node_name), Mirror(node, guard)),
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
            try:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    for task in tasks:
                        if task.done():
                            task.result()  # it never ends but by a programming error
                    batch, self._inbox = self._inbox, []
                    if batch:
                        yield batch
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for kind in self._kinds:
                    kind.stop()

    async def _follow(self, kind: _Kind) -> None:
        async for step in follow(self._client, kind.resource, self._timing):
            if kind.resource is ENDPOINT_SLICES and self._replicas.take(step):
                self._client.set_replicas(self._replicas.urls)
            self._deliver(kind.take(step))
            if kind.mirror.is_holding and kind.timer is None:
                kind.timer = asyncio.get_running_loop().call_later(
                    self._hold_s, self._release, kind
                )
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

    def __init__(self, resource: Resource, mirror: Mirror) -> None:
        self.resource = resource
        self.mirror = mirror
        self.timer: asyncio.TimerHandle | None = None
        self.is_settled = False  # listed; or, if it can be done without, refused for good
        self._is_listed = False
        self._failures = 0
        self._reported: str | None = None

    def take(self, step: Step) -> list[SourceEvent]:
        match step:
            case Listing():
                self._is_listed = self.is_settled = True
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
        self._failures += 1
        is_final = isinstance(error, Refused) and error.is_final
        if is_final and not self.resource.is_required:
            self.is_settled = True
        if self._is_listed and self._failures < REPORTED_FAILURES and not is_final:
            return []
        reason = str(error)
        if self._is_listed:
            reason += "; the last good state stays in force"
        if reason == self._reported:
            return []
        self._reported = reason
        return [Failed(self.resource.source, SourceError(reason))]

    def _recovered(self) -> list[SourceEvent]:
        self._failures = 0
        if self._reported is None:
            return []
        self._reported = None
        return [Recovered(self.resource.source)]
