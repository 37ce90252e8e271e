# SPDX-License-Identifier: Apache-2.0
"""The two servers: health probes (:10256) and metrics (:10249), as kube-proxy has them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from vipbee.errors import KernelError
from vipbee.observe.health import Answer, Health
from vipbee.observe.listening import Bind, BoundedServer, Handler, parse_bind

_JSON_HEADERS = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


@contextlib.asynccontextmanager
async def serve_health(bind: Bind, health: Health) -> AsyncIterator[int | None]:
    """Answer `/healthz` and `/livez`; yields the port, None if disabled."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        match request.path:
            case "/healthz":
                return _json(health.healthz(time.time()))
            case "/livez":
                return _json(health.livez(time.time()))
        return web.Response(status=404, text="not found\n")

    async with _serve("healthz", bind, answer) as port:
        yield port


@contextlib.asynccontextmanager
async def serve_metrics(
    bind: Bind, registry: CollectorRegistry, health: Health
) -> AsyncIterator[int | None]:
    """Answer `/metrics`, `/healthz` and `/proxyMode` (R106); yields the port, None if disabled."""
    scraping = asyncio.Lock()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        match request.path:
            case "/metrics":
                # Reading big maps takes a while: in a thread, one at a time.
                async with scraping:
                    page = await asyncio.to_thread(generate_latest, registry)
                return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})
            case "/healthz":
                if health.is_alive(time.time()):
                    return web.Response(text="ok")
                return web.Response(status=503, text="updates are pending for too long\n")
            case "/proxyMode":
                return web.Response(text="vipbee")
        return web.Response(status=404, text="not found\n")

    async with _serve("metrics", bind, answer) as port:
        yield port


@contextlib.asynccontextmanager
async def _serve(name: str, bind: Bind, answer: Handler) -> AsyncIterator[int | None]:
    address = parse_bind(name, bind)
    if address is None:
        yield None
        return
    server = BoundedServer(answer)
    try:
        listener = await server.listen(*address)
    except OSError as error:
        hint = (
            "another program listens there; is kube-proxy still running?"
            if error.errno == errno.EADDRINUSE
            else f"choose another address with --{name}-bind-address"
        )
        raise KernelError(
            f"{name} server cannot listen on {_shown(*address)}", error.errno or 0, hint
        ) from None
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.shutdown()


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _json(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_JSON_HEADERS)
