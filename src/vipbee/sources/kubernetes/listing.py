# SPDX-License-Identifier: Apache-2.0
"""All objects of one kind at one moment, page by page."""

from __future__ import annotations

from dataclasses import dataclass

from vipbee.model import ApiObject, Problem
from vipbee.sources.events import ObjectName
from vipbee.sources.kubernetes.api_errors import BAD_REQUEST, Gone, Refused
from vipbee.sources.kubernetes.client import ApiClient
from vipbee.sources.kubernetes.resources import Resource
from vipbee.sources.kubernetes.timing import Timing
from vipbee.sources.kubernetes.wire import TOO_LARGE, Page, decode_page


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list; `broken` are objects in it that cannot be understood."""

    objects: dict[ObjectName, ApiObject]
    broken: dict[ObjectName, Problem]
    resource_version: str  # the list's, never an item's (F8)


async def list_all(client: ApiClient, resource: Resource, timing: Timing) -> Listing:
    """Return the current list, read consistently; raise RequestError.

    If the continue token expires, what was read is thrown away and the list begins again
    (F14); the second time in one piece, as a slow connection would never come to the end.
    """
    for limit in (timing.page_size, timing.page_size):
        try:
            return await _list_pages(client, resource, limit)
        except Gone:
            continue
    return await _list_pages(client, resource, limit=0)


async def _list_pages(client: ApiClient, resource: Resource, limit: int) -> Listing:
    # No resourceVersion: `0` would be cheaper for the server and may go back in time (F13).
    query = {**resource.selection}
    if limit:
        query["limit"] = str(limit)
    first = page = await _page(client, resource, query)
    objects, broken = first.objects, first.broken
    while page.token is not None:
        page = await _page(client, resource, {**query, "continue": page.token})
        objects.update(page.objects)
        broken.update(page.broken)
    return Listing(objects, broken, first.resource_version)


async def _page(client: ApiClient, resource: Resource, query: dict[str, str]) -> Page:
    return decode_page(resource, await client.get(resource.path, query))


async def has_reached(client: ApiClient, resource: Resource, version: str) -> bool:
    """Whether the server knows of `version`; raise RequestError, Gone if it forgot it.

    After etcd was restored from a backup it does not, and a watch from there would be
    silent until it does. Only the server can tell: versions are opaque (F16).
    """
    query = {
        **resource.selection,
        "limit": "1",
        "resourceVersion": version,
        "resourceVersionMatch": "NotOlderThan",
    }
    try:
        await client.get(resource.path, query)
    except Refused as error:
        if error.reason == TOO_LARGE:
            return False
        if error.code != BAD_REQUEST:  # a server before 1.19 knows no such question
            raise
    return True
