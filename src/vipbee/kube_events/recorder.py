# SPDX-License-Identifier: Apache-2.0
"""Sends what the ledger says is due, one request after the other; never in anybody's way.

    first time            POST    201, or 409: it is there, from another node or an earlier process
    again, node's own     PATCH   count and time; 404: it has expired, POST
    again, cluster-wide   POST    201: it had expired; 409: it is there still

What the server refuses is not repeated soon; what does not reach it is tried again, as slowly
as lists are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import msgspec

from vipbee.core.request_counts import RequestCounts
from vipbee.kube_events.ledger import Ledger
from vipbee.kube_events.notes import FindUid, Note, event, notes, path, series
from vipbee.logs import get_log
from vipbee.model import Problem
from vipbee.sources.kubernetes.access import Access
from vipbee.sources.kubernetes.api_errors import FORBIDDEN, NOT_FOUND, Refused, RequestError
from vipbee.sources.kubernetes.client import ApiClient
from vipbee.sources.kubernetes.timing import Backoff, Timing

log = get_log()

CONFLICT = 409
TOO_MANY_REQUESTS = 429
DEFAULT_TIMING = Timing()


class EventRecorder:
    """`tell` at any time; the task `record` does the rest.

    `load` reads how to reach the API server; raises SourceError if it cannot be read now.
    """

    def __init__(
        self,
        load: Callable[[], Access],
        node_name: str,
        find_uid: FindUid,
        *,
        timing: Timing = DEFAULT_TIMING,
        counts: RequestCounts | None = None,
    ) -> None:
        self._client = ApiClient(load, timing, counts)
        self._node_name = node_name
        self._find_uid = find_uid
        self._timing = timing
        self._ledger = Ledger(time.monotonic())
        self._told: list[Problem] = []
        self._wake = asyncio.Event()
        self._is_complained = False

    def tell(self, problems: Sequence[Problem]) -> None:
        """Exactly these are there now; cheap if they were before."""
        if problems == self._told:
            return
        self._told = list(problems)
        self._ledger.observe(notes(problems, self._node_name, self._find_uid))
        self._wake.set()

    async def record(self) -> None:
        """Send for ever."""
        backoff = Backoff(self._timing)
        async with self._client:
            while True:
                note = self._ledger.take(time.monotonic())
                if note is None:
                    await self._wait()
                    continue
                try:
                    await self._send(note)
                except RequestError as error:
                    if not self._is_refused_for_good(error):
                        await asyncio.sleep(backoff.next_s(error.retry_after_s))
                        continue
                backoff.reset()
                self._ledger.sent(note, time.monotonic())

    async def _wait(self) -> None:
        # not wait_for: before Python 3.12 it may swallow a cancellation
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._ledger.wait_s(time.monotonic())):
                await self._wake.wait()
        self._wake.clear()

    async def _send(self, note: Note) -> None:
        times = self._ledger.times_sent(note)
        if times and note.node and await self._patch(note, times + 1):
            return
        body = event(note, node_name=self._node_name, unix_s=time.time())
        try:
            await self._client.send("POST", path(note, is_new=True), msgspec.json.encode(body))
        except Refused as error:
            if error.code != CONFLICT:
                raise
            if note.node and not times:  # an earlier process of this node told it
                await self._patch(note, 2)

    async def _patch(self, note: Note, count: int) -> bool:
        """False if the Event is there no more."""
        body = msgspec.json.encode(series(count, time.time()))
        try:
            await self._client.send("PATCH", path(note, is_new=False), body)
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            return False
        return True

    def _is_refused_for_good(self, error: RequestError) -> bool:
        """Whether repeating it at once would change nothing; said once in the log."""
        if not isinstance(error, Refused) or error.code >= 500 or error.code == TOO_MANY_REQUESTS:
            return False
        if not self._is_complained:
            self._is_complained = True
            hint = "the agent needs create and patch of events in events.k8s.io (RBAC)"
            log.warning(
                "Kubernetes Events cannot be written",
                reason=str(error),
                hint=hint if error.code == FORBIDDEN else "see vipbee status for all problems",
            )
        return True
