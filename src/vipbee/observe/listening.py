# SPDX-License-Identifier: Apache-2.0
"""HTTP servers anybody who reaches the node may talk to: small requests, few, and brief.

Bodies are refused, connections end after one answer or 20 s and their number is bounded: a
flood costs the agent neither its memory nor its file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from vipbee.errors import UsageError

Bind = str | tuple[str, int] | None
"""`addr:port` or `[addr]:port` or (address, port); empty or None disables the server."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_MAX_LINE_BYTES = 2048
_MAX_HEADERS = 32
_MAX_CONNECTIONS = 256
_CONNECTION_S = 20.0  # one request and its answer; a scrape of big maps takes seconds


class BoundedServer:
    """One handler behind any number of listening sockets; the bounds are for all of them."""

    def __init__(self, answer: Handler) -> None:
        async def only_get(request: web.BaseRequest) -> web.StreamResponse:
            if request.method in ("GET", "HEAD"):
                response = await answer(request)
            else:
                response = web.Response(status=405, headers={"Allow": "GET, HEAD"})
            response.force_close()  # so that a connection's deadline never cuts a later request
            return response

        logger = logging.getLogger("vipbee.http")
        logger.addFilter(_is_ours)
        self._server = web.Server(
            only_get,
            access_log=None,
            logger=logger,
            lingering_time=1.0,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
            max_headers=_MAX_HEADERS,
        )

    async def listen(self, host: str, port: int, *, is_dual_stack: bool = True) -> asyncio.Server:
        """Accept connections until the result is closed; raise OSError."""
        made = make_listener(host, port, is_dual_stack=is_dual_stack)
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._accept, sock=made, backlog=128)

    async def shutdown(self) -> None:
        """End open connections; close what `listen` returned before."""
        await self._server.shutdown(timeout=1.0)

    def _accept(self) -> asyncio.Protocol:
        """A protocol for a new connection; beyond the limit one that closes it at once."""
        if len(self._server.connections) >= _MAX_CONNECTIONS:
            return _Closed()
        handler = self._server()
        # aiohttp has no limit for how long a request may take to arrive, byte by byte
        asyncio.get_running_loop().call_later(_CONNECTION_S, handler.force_close)
        return handler


def make_listener(host: str, port: int, *, is_dual_stack: bool = True) -> socket.socket:
    """A bound socket; `::` means both families, as in Go, unless `is_dual_stack` is False."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as stack:
        stack.callback(made.close)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual_stack)
        made.bind((host, port))
        made.setblocking(False)
        stack.pop_all()
    return made


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


def _is_ours(record: logging.LogRecord) -> bool:
    """Drop what malformed requests cause: anybody could fill the log with them."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
