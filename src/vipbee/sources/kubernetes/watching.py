# SPDX-License-Identifier: Apache-2.0
"""One kind, followed for ever: three nested generators, each with one way to end.

    follow             for ever                     nothing ends it
    └ list_then_watch  one history of versions      410, restored backup, long outage, age
      └ stream         one request                  the server's timeout, any failure

Nothing is lost between them: a watch begins at the version of the list, or of the last
event, before it (F11).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from vipbee.sources.kubernetes.api_errors import Gone, Malformed, RequestError, Unreachable
from vipbee.sources.kubernetes.client import ApiClient
from vipbee.sources.kubernetes.listing import Listing, has_reached, list_all
from vipbee.sources.kubernetes.resources import Resource
from vipbee.sources.kubernetes.timing import Backoff, Timing
from vipbee.sources.kubernetes.wire import Batch, LineSplitter, decode_events

MAX_MALFORMED = 3
"""Attempts to read a watch from one version; then what it would say is listed."""
MAX_UNKNOWN = 2
"""Attempts to find a server that knows our version; a slow replica may need a moment."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A watch is established: what was known is current."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """An attempt failed, and will be repeated."""

    error: RequestError


Step = Listing | Batch | Connected | Trouble


async def follow(
    client: ApiClient, resource: Resource, timing: Timing
) -> AsyncGenerator[Step, None]:
    """Yield a Listing, then Batches, then perhaps another Listing, and so on."""
    backoff = Backoff(timing)
    while True:
        try:
            async for step in list_then_watch(client, resource, timing, backoff):
                yield step
        except Gone:
            # not at once: every agent of the cluster is told the same at the same time (F13)
            await asyncio.sleep(backoff.next_s())
        except RequestError as error:
            yield Trouble(error)
            await asyncio.sleep(backoff.next_s(error.retry_after_s))


async def list_then_watch(
    client: ApiClient, resource: Resource, timing: Timing, backoff: Backoff
) -> AsyncGenerator[Step, None]:
    """Follow one history; end, or raise Gone, when only a new list can help."""
    listing = await list_all(client, resource, timing)
    version = listing.resource_version
    yield listing
    ends = time.monotonic() + timing.relist_s * random.uniform(0.8, 1.2)
    malformed = unknown = 0
    lost_at: float | None = None  # since when it is in doubt that this is the history we know
    while time.monotonic() < ends:
        started = time.monotonic()
        try:
            if lost_at is not None:
                if started - lost_at > timing.outage_s:
                    return
                if not await has_reached(client, resource, version):
                    unknown += 1
                    if unknown >= MAX_UNKNOWN:
                        return
                    await asyncio.sleep(backoff.next_s())
                    continue
                lost_at, unknown = None, 0
            async for step in stream(client, resource, version, timing):
                if isinstance(step, Batch):
                    version = step.resource_version or version
                    malformed = 0
                    backoff.reset()
                yield step
        except Gone:
            raise
        except RequestError as error:
            if lost_at is None and isinstance(error, Unreachable):
                lost_at = time.monotonic()
            malformed += isinstance(error, Malformed)
            yield Trouble(error)
            if malformed >= MAX_MALFORMED:
                return
            await asyncio.sleep(backoff.next_s(error.retry_after_s))
            continue
        if time.monotonic() - started >= timing.watch_s / 2:
            backoff.reset()
        else:  # a server that ends every watch at once must not be asked in a circle (F7)
            await asyncio.sleep(backoff.next_s())


async def stream(
    client: ApiClient, resource: Resource, version: str, timing: Timing
) -> AsyncGenerator[Connected | Batch, None]:
    """One watch from `version` on; ends when the server ends it, else raises RequestError."""
    query = {
        **resource.selection,
        "watch": "true",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(timing.watch_s),
    }
    splitter = LineSplitter()
    async with client.open(resource.path, query, silence_s=timing.silence_s) as response:
        yield Connected()
        async for chunk in response.content.iter_any():
            batch, failure = decode_events(resource, splitter.feed(chunk))
            if batch:
                yield batch
            if failure is not None:
                raise failure
    if splitter.held:  # the next watch sends that event again, whole
        raise Malformed(f"the watch of {resource.plural} ended in the middle of a line")
