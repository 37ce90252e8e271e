# SPDX-License-Identifier: Apache-2.0
"""Authenticated requests to one of several API servers. Bytes out, typed errors up.

Every failure to connect moves on to the next address; the caller decides when to try
again. Must not know what is asked for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from vipbee import __version__
from vipbee.core.request_counts import NO_ANSWER, ApiRequest, RequestCounts
from vipbee.errors import SourceError
from vipbee.sources.kubernetes.access import Access
from vipbee.sources.kubernetes.api_errors import (
    UNAUTHORIZED,
    RequestError,
    Unreachable,
)
from vipbee.sources.kubernetes.credentials import Credentials
from vipbee.sources.kubernetes.timing import Timing
from vipbee.sources.kubernetes.tls import TlsContexts
from vipbee.sources.kubernetes.wire import decode_status

_BUFFER_BYTES = 1 << 20
_STATUS_BYTES = 1 << 16
_IDLE_CONNECTION_S = 90.0
# A peer that is gone without a word is noticed after 15 + 3 × 5 s (F6); with data under way
# after the same time.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


class Outgoing(NamedTuple):
    """What is written, as JSON."""

    method: str
    body: bytes

    @property
    def content_type(self) -> str:
        return f"application/{'merge-patch+json' if self.method == 'PATCH' else 'json'}"


class ApiClient:
    """`load` reads the configuration; it is asked again when the server does not know us.

    Every request is counted in `counts`.
    """

    def __init__(
        self, load: Callable[[], Access], timing: Timing, counts: RequestCounts | None = None
    ) -> None:
        self._load = load
        self._counts = RequestCounts() if counts is None else counts
        self._timing = timing
        self._session: aiohttp.ClientSession | None = None
        self._replicas: tuple[str, ...] = ()
        self._use(load())

    async def __aenter__(self) -> ApiClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=_IDLE_CONNECTION_S,
                ttl_dns_cache=10,
                socket_factory=_make_socket,
            ),
            # gzip would cost the server more than a local network saves
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"vipbee/{__version__}",
            },
            read_bufsize=_BUFFER_BYTES,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def server(self) -> str:
        """The address in use."""
        return self._servers[self._at % len(self._servers)]

    def set_replicas(self, urls: Sequence[str]) -> None:
        """Further addresses, for when the configured ones fail; ignored if unverifiable."""
        self._replicas = tuple(urls)
        access, server = self._access, self.server
        is_verified = access.servers[0].startswith("https://") and not access.trust.is_insecure
        further = urls if is_verified and access.proxy is None else ()
        self._servers = tuple(dict.fromkeys((*access.servers, *further)))
        self._at = self._servers.index(server) if server in self._servers else 0

    async def get(self, path: str, query: Mapping[str, str]) -> bytes:
        """The whole body of a 200; raise RequestError."""
        async with self.open(path, query, silence_s=self._timing.read_s) as response:
            return await response.read()

    async def send(self, method: str, path: str, body: bytes) -> None:
        """POST a new object or PATCH (merge) one, done if 2xx; raise RequestError.

        The only thing that is ever written are Events.
        """
        request = Outgoing(method, body)
        async with self.open(path, {}, silence_s=self._timing.read_s, outgoing=request) as response:
            await response.read()

    @asynccontextmanager
    async def open(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        silence_s: float,
        outgoing: Outgoing | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 2xx, to be read within; raise RequestError.

        What breaks while it is read comes as Unreachable, too, also after `silence_s`
        seconds without a byte.
        """
        server = self.server
        try:
            response = await self._send(server, path, query, silence_s, outgoing)
            if response.status == UNAUTHORIZED:  # rotated? then once again with the new one
                response.release()
                self._forget()
                response = await self._send(server, path, query, silence_s, outgoing)
            try:
                if response.status not in (200, 201):
                    raise await self._refusal(response, server, path)
                yield response
            finally:
                # what is not read to the end cannot be used again
                response.release() if response.content.at_eof() else response.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
                self._forget()
            self._leave(server)
            raise Unreachable(f"{server}: {_reason(error, silence_s)}") from None

    async def _send(
        self,
        server: str,
        path: str,
        query: Mapping[str, str],
        silence_s: float,
        outgoing: Outgoing | None,
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        options: dict[str, Any] = {"headers": {}}
        try:
            authorization = await self._credentials.header()
            if authorization is not None:
                options["headers"]["Authorization"] = authorization
            if server.startswith("https://"):
                options["ssl"] = self._tls.current(await self._credentials.certificate())
                options["server_hostname"] = self._name_of(server)
        except SourceError as error:
            raise RequestError(str(error)) from None
        if outgoing is not None:
            options["data"] = outgoing.body
            options["headers"]["Content-Type"] = outgoing.content_type
        method = outgoing.method if outgoing is not None else "GET"
        code = NO_ANSWER
        try:
            response = await self._session.request(
                method,
                server + path,
                params=query,
                proxy=self._access.proxy,
                allow_redirects=False,  # the token is for this server
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._timing.connect_s, sock_read=silence_s
                ),
                **options,
            )
            code = str(response.status)
            return response
        finally:
            self._counts[ApiRequest(code, urlsplit(server).netloc, method)] += 1

    async def _refusal(
        self, response: aiohttp.ClientResponse, server: str, path: str
    ) -> RequestError:
        body = await response.content.read(_STATUS_BYTES)
        after = response.headers.get("Retry-After", "")
        if response.status >= 500:
            self._leave(server)
        return decode_status(
            response.status,
            body,
            what=f"{server}{path}",
            retry_after_s=float(after) if after.isascii() and after.isdigit() else None,
        )

    def _name_of(self, server: str) -> str | None:
        """What the certificate must be for, if not for the host in the URL."""
        configured = self._access.servers
        if self._access.trust.server_name or server in configured:
            return self._access.trust.server_name
        return urlsplit(configured[0]).hostname

    def _leave(self, server: str) -> None:
        """Go on with the next address, unless somebody else did already."""
        if server == self.server:
            self._at += 1

    def _forget(self) -> None:
        """Ask for new credentials, and read the configuration again if it can be read."""
        try:
            access = self._load()
        except SourceError:
            access = self._access
        if access != self._access:
            self._use(access)
        self._credentials.forget()

    def _use(self, access: Access) -> None:
        self._access = access
        self._servers = access.servers
        self._at = 0
        self.set_replicas(self._replicas)
        self._credentials = Credentials(access)
        self._tls = TlsContexts(access)


def _make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _reason(error: Exception, silence_s: float) -> str:
    """What happened, in words; aiohttp's own often repeat address and options."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(error, asyncio.TimeoutError):
        return f"silent for {silence_s:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid: {_verification(error.certificate_error)}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _os_reason(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "closed the connection in the middle of an answer"
    return _os_reason(error) if isinstance(error, OSError) else str(error) or type(error).__name__


def _os_reason(error: OSError) -> str:
    """ "Connection refused"; asyncio puts the address where the reason belongs."""
    if error.errno is None or error.errno <= 0 or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _verification(error: Exception) -> str:
    return getattr(error, "verify_message", None) or str(error)
