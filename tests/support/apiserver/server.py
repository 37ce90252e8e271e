# SPDX-License-Identifier: Apache-2.0
"""HTTP: list and watch as kube-apiserver answers them, and plain writes for tests.

Taken from the API concepts page and kube-apiserver 1.33: a list says the revision of its
moment and pages keep it; a watch too far back is Gone, as an event (from the watch cache)
or as a status (from etcd); one ahead of the server is silent, while a *list* there is
refused with 504 and cause ResourceVersionTooLarge; an object that stops matching the
selector is DELETED; a bookmark comes just before the server ends a watch.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from tests.support.apiserver.events import EventStore
from tests.support.apiserver.faults import (
    Answer,
    Fault,
    Hang,
    Reset,
    Script,
    StallAfter,
    Verb,
    status_object,
)
from tests.support.apiserver.objects import KINDS, Event, Kind, Objects, Stored
from tests.support.apiserver.selectors import Selector, selector

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Request(NamedTuple):
    verb: Verb
    plural: str
    query: Mapping[str, str]
    authorization: str


class ApiServer:
    """Serves `objects`; everything may be changed while it runs.

    `after_page` is called with the plural and the continue token it was asked for, when a page
    of a list is made up and not sent yet.
    """

    def __init__(self, objects: Objects | None = None) -> None:
        self.objects = objects or Objects()
        self.events = EventStore()
        self.tokens: set[str] | None = None  # None: nobody is asked
        self.forbidden: set[str] = set()  # plurals
        self.is_gone_an_event = True
        self.bookmark_interval_s = 60.0
        self.longest_watch_s = 3600.0
        self.requests: list[Request] = []
        self.after_page: Callable[[str, str | None], None] = lambda plural, token: None
        self.port = 0
        self._faults: dict[tuple[str, Verb], list[Fault]] = defaultdict(list)
        self._continuations: dict[str, tuple[int, list[Stored]]] = {}
        self._transports: set[asyncio.BaseTransport] = set()
        self._runner: web.AppRunner | None = None
        self._tls: ssl.SSLContext | None = None

    # ---- life --------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[ApiServer]:
        await self.start(tls=tls)
        try:
            yield self
        finally:
            await self.crash()

    async def start(
        self, host: str = "127.0.0.1", port: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen; a second start takes the port of the first."""
        self._tls = tls
        app = web.Application(client_max_size=64 << 20)
        for kind in KINDS.values():
            self._route(app, kind)
        app.add_routes(self.events.routes())
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            host,
            self.port if port is None else port,
            ssl_context=tls,
            reuse_address=True,
        )
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def crash(self) -> None:
        """Stop listening and break every connection."""
        self.break_connections()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def break_connections(self) -> None:
        for transport in self._transports:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        self._transports.clear()

    # ---- scripts -----------------------------------------------------------------------

    def fail(self, plural: str, verb: Verb, *faults: Fault) -> None:
        """The next requests of this kind meet these faults, one each, in this order."""
        self._faults[plural, verb] += faults

    def expire_continue_tokens(self) -> None:
        self._continuations.clear()

    def count(self, verb: Verb, plural: str) -> int:
        return sum(1 for request in self.requests if request[:2] == (verb, plural))

    # ---- requests ----------------------------------------------------------------------

    def _route(self, app: web.Application, kind: Kind) -> None:
        async def read(request: web.Request) -> web.StreamResponse:
            try:
                return await self._read(kind, request)
            except ConnectionError:  # the client went away, as clients may
                return web.Response()

        async def put(request: web.Request) -> web.StreamResponse:
            revision = self.objects.put(kind.plural, await request.json())
            return web.json_response({"metadata": {"resourceVersion": str(revision)}})

        async def delete(request: web.Request) -> web.StreamResponse:
            found = self.objects.delete(kind.plural, **request.match_info)
            return web.json_response({}, status=200 if found else 404)

        collection = f"{kind.prefix}/{kind.plural}"
        place = "/namespaces/{namespace}" if kind.is_namespaced else ""
        one = f"{kind.prefix}{place}/{kind.plural}/{{name}}"
        app.router.add_get(collection, read)
        app.router.add_put(one, put)
        app.router.add_delete(one, delete)

    async def _read(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        verb: Verb = "watch" if query.get("watch") in ("true", "1") else "list"
        authorization = request.headers.get("Authorization", "")
        self.requests.append(Request(verb, kind.plural, query, authorization))
        if request.transport is not None:
            self._transports.add(request.transport)
        if self.tokens is not None and authorization.removeprefix("Bearer ") not in self.tokens:
            return _status(401, "Unauthorized", "Unauthorized")
        if kind.plural in self.forbidden:
            return _status(403, "Forbidden", f"{kind.plural} is forbidden: cannot {verb}")
        faults = self._faults[kind.plural, verb]
        fault = faults.pop(0) if faults else None
        match fault:
            case Answer():
                return web.Response(
                    status=fault.code,
                    body=fault.body,
                    headers=fault.headers,
                    content_type="application/json",
                )
            case Hang():
                await asyncio.Event().wait()
            case Reset():
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case Script():
                return await self._play(request, fault)
        if verb == "list":
            return self._list(kind, query)
        return await self._watch(kind, request, query, fault)

    async def _play(self, request: web.Request, script: Script) -> web.StreamResponse:
        response = await _stream(request)
        for piece in script.pieces:
            await response.write(piece)
            await asyncio.sleep(0.002)  # so that pieces arrive as they were cut
        return await self._finish(request, response, script.then)

    async def _finish(
        self, request: web.Request, response: web.StreamResponse, ending: str
    ) -> web.StreamResponse:
        if ending == "stall":
            await asyncio.Event().wait()
        if ending == "cut":
            assert isinstance(request.transport, asyncio.WriteTransport)
            request.transport.abort()
        return response

    # ---- list --------------------------------------------------------------------------

    def _list(self, kind: Kind, query: Mapping[str, str]) -> web.StreamResponse:
        token = query.get("continue")
        if token:
            if token not in self._continuations:
                return _status(410, "Expired", "The provided continue parameter is too old")
            revision, rest = self._continuations.pop(token)
        else:
            wanted = int(query.get("resourceVersion") or 0)
            if wanted > self.objects.revision:
                return _too_large(wanted, self.objects.revision)
            revision = self.objects.revision
            chosen = _chosen(query)
            rest = [stored for _, stored in self.objects.listed(kind.plural, chosen)]
        limit = int(query.get("limit") or 0) or len(rest)
        page, rest = rest[:limit], rest[limit:]
        meta: dict[str, Any] = {"resourceVersion": str(revision)}
        if rest:
            left = len(self._continuations)
            name = base64.urlsafe_b64encode(f"{revision}/{kind.plural}/{left}".encode()).decode()
            self._continuations[name] = revision, rest
            meta["continue"] = name
        head = json.dumps({"kind": f"{kind.kind}List", "apiVersion": kind.api_version})[:-1]
        body = b'%s,"metadata":%s,"items":[%s]}' % (
            head.encode(),
            json.dumps(meta).encode(),
            b",".join(stored.data for stored in page),
        )
        self.after_page(kind.plural, token)
        return web.Response(body=body, content_type="application/json")

    # ---- watch -------------------------------------------------------------------------

    async def _watch(
        self, kind: Kind, request: web.Request, query: Mapping[str, str], fault: Fault | None
    ) -> web.StreamResponse:
        chosen = _chosen(query)
        initial = query.get("sendInitialEvents") == "true"
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            return _status(422, "Invalid", "resourceVersionMatch is required")
        text = query.get("resourceVersion") or "0"
        is_resumed = text != "0" and not initial
        revision = int(text)
        if is_resumed and revision < self.objects.compacted:
            gone = status_object(
                410, "Expired", f"too old resource version: {text} ({self.objects.compacted})"
            )
            if not self.is_gone_an_event:
                return _status(410, "Expired", gone["message"])
            response = await _stream(request)
            await response.write(_line("ERROR", json.dumps(gone).encode()))
            return response
        response = await _stream(request)
        if not is_resumed:
            revision = self.objects.revision
            for _, stored in self.objects.listed(kind.plural, chosen):
                await response.write(_line("ADDED", stored.data))
            if initial:
                await response.write(_bookmark(kind, revision, {INITIAL_EVENTS_END: "true"}))
        wants_bookmarks = query.get("allowWatchBookmarks") == "true"
        lasts_s = min(float(query.get("timeoutSeconds") or 1800), self.longest_watch_s)
        ends = time.monotonic() + lasts_s
        next_bookmark = time.monotonic() + self.bookmark_interval_s
        left = fault.events if isinstance(fault, StallAfter) else -1
        while True:
            now = time.monotonic()
            pieces = []
            for event in self.objects.since(revision):
                revision = event.revision
                piece = _as_seen(event, kind, chosen)
                if piece is not None:
                    pieces.append(piece)
                    left -= left > 0
                if left == 0:
                    break
            if left == 0:
                await response.write(b"".join(pieces))
                await self._finish(request, response, "stall")
            revision = max(revision, self.objects.revision)
            if wants_bookmarks and now >= min(next_bookmark, ends):
                next_bookmark = now + self.bookmark_interval_s
                pieces.append(_bookmark(kind, revision))
            if pieces:
                await response.write(b"".join(pieces))
            if now >= ends:
                return response
            if not pieces:
                await self.objects.wait_change(min(ends, next_bookmark) - now)


def _as_seen(event: Event, kind: Kind, chosen: Selector) -> bytes | None:
    """The event as a watcher with this selector is told it, if at all."""
    if event.plural != kind.plural:
        return None
    was = event.old is not None and chosen(event.old.manifest)
    if event.new is not None and chosen(event.new.manifest):
        return _line("MODIFIED" if was else "ADDED", event.new.data)
    if not was or event.old is None:
        return None
    # the last state, at the version of the deletion
    last = {**event.old.manifest, "metadata": {**event.old.manifest["metadata"]}}
    last["metadata"]["resourceVersion"] = str(event.revision)
    return _line("DELETED", json.dumps(last).encode())


def _chosen(query: Mapping[str, str]) -> Selector:
    return selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))


def _line(kind: str, data: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), data)


def _bookmark(kind: Kind, revision: int, annotations: dict[str, str] | None = None) -> bytes:
    meta: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    item = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
    return _line("BOOKMARK", json.dumps(item).encode())


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


def _status(code: int, reason: str, message: str, **details: Any) -> web.Response:
    return web.json_response(status_object(code, reason, message, **details), status=code)


def _too_large(wanted: int, current: int) -> web.Response:
    return _status(
        504,
        "Timeout",
        f"Too large resource version: {wanted}, current: {current}",
        causes=[{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        retryAfterSeconds=1,
    )
