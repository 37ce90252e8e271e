# SPDX-License-Identifier: Apache-2.0
"""The two servers: health probes (:10256) and metrics (:10249), as kube-proxy has them.

The health port is open to everybody who reaches the node, so requests are small, bodies
are refused, connections end quickly and their number is bounded: a flood costs the
agent neither its memory nor its file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from vipbee.errors import KernelError, UsageError
from vipbee.observe.health import Answer, Health

Bind = str | tuple[str, int] | None
"""`addr:port` or `[addr]:port` or (address, port); empty or None disables the server."""

_MAX_LINE_BYTES = 2048
_MAX_HEADERS = 32
_MAX_CONNECTIONS = 256
_CONNECTION_S = 20.0  # one request and its answer; a scrape of big maps takes seconds
_JSON_HEADERS = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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
async def _serve(name: str, bind: Bind, answer: _Handler) -> AsyncIterator[int | None]:
    address = parse_bind(name, bind)
    if address is None:
        yield None
        return

    async def only_get(request: web.BaseRequest) -> web.StreamResponse:
        if request.method in ("GET", "HEAD"):
            response = await answer(request)
        else:
            response = web.Response(status=405, headers={"Allow": "GET, HEAD"})
        response.force_close()  # so that a connection's deadline never cuts a later request
        return response

    logger = logging.getLogger("vipbee.http")
    logger.addFilter(_is_ours)
    server = web.Server(
        only_get,
        access_log=None,
        logger=logger,
        lingering_time=1.0,
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_LINE_BYTES,
        max_headers=_MAX_HEADERS,
    )
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: _bounded(server), sock=_listen(name, *address), backlog=128
    )
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await server.shutdown(timeout=1.0)


def _is_ours(record: logging.LogRecord) -> bool:
    """Drop what malformed requests cause: anybody could fill the log with them."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _bounded(server: web.Server) -> asyncio.Protocol:
    """A protocol for a new connection; beyond the limit one that closes it at once."""
    if len(server.connections) >= _MAX_CONNECTIONS:
        return _Closed()
    handler = server()
    # aiohttp has no limit for how long a request may take to arrive, byte by byte
    asyncio.get_running_loop().call_later(_CONNECTION_S, handler.force_close)
    return handler


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _listen(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` means both families, as Go's servers understand it
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        hint = (
            "another program listens there; is kube-proxy still running?"
            if error.errno == errno.EADDRINUSE
            else f"choose another address with --{name}-bind-address"
        )
        raise KernelError(
            f"{name} server cannot listen on {_shown(host, port)}", error.errno or 0, hint
        ) from None
    listener.setblocking(False)
    return listener


def parse_bind(name: str, bind: Bind) -> tuple[str, int] | None:
    """(host, port) of a bind address; raise UsageError if it is none."""
    if not bind:
        return None
    if isinstance(bind, tuple):
        return bind[0], bind[1]
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"--{name}-bind-address {bind!r} is not ADDRESS:PORT")
    return host, int(port)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _json(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_JSON_HEADERS)
