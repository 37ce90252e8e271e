# SPDX-License-Identifier: Apache-2.0
"""Answers on `healthCheckNodePort`: shall a load balancer send this Service here (R96–R101)?

    follow(checks, addresses) ─► wanted listeners ─► opened and closed by `serve`
                                                     └ what cannot be opened: a problem, tried again

One socket for each family of a Service and each address; one HTTP server behind all of
them, which tells by the port that was asked whom it is about. Kept answers follow at once,
so a listener that stays is never without the current count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from aiohttp import web

from vipbee.address import family_of, format_address
from vipbee.core.health_checks import HealthCheck
from vipbee.logs import get_log
from vipbee.model import Problem, ProblemReason, ServiceName
from vipbee.observe.health import Health
from vipbee.observe.listening import BoundedServer

log = get_log()

RETRY_S = 5.0
WILDCARDS: Mapping[int, tuple[str, ...]] = {4: ("0.0.0.0",), 6: ("::",)}
"""Every address: unless --nodeport-addresses names CIDRs, as kube-proxy with iptables. Some
clouds ask at the load balancer's own address, which `primary` would leave out."""


class _Listener(NamedTuple):
    host: str
    port: int


class _Answering(NamedTuple):
    service: ServiceName
    endpoints: int


class ServiceHealthServers:
    """`follow` says what is wanted; the task `serve` makes it so."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._server = BoundedServer(self._answer)
        self._wanted: dict[_Listener, ServiceName] = {}
        self._open: dict[_Listener, asyncio.Server] = {}
        self._failed: dict[_Listener, str] = {}
        self._claimed_twice: dict[ServiceName, ServiceName] = {}
        self._answers: dict[tuple[int, int], _Answering] = {}  # by family and port
        self._known: tuple[object, object] = (None, None)
        self._wake = asyncio.Event()

    def follow(
        self, checks: Mapping[ServiceName, HealthCheck], addresses: Mapping[int, Sequence[str]]
    ) -> None:
        """Answer for exactly these, on these addresses by family; cheap if both are as before."""
        if self._known[0] is checks and self._known[1] == addresses:
            return
        self._known = checks, addresses
        self._wanted, self._answers, self._claimed_twice = {}, {}, {}
        for name, check in sorted(checks.items()):
            for family, endpoints in check.endpoints.items():
                first = self._answers.get((family, check.port))
                if first is not None:  # only without an API server, which would not allow it
                    self._claimed_twice[name] = first.service
                    continue
                self._answers[family, check.port] = _Answering(name, endpoints)
                for host in addresses.get(family, ()):
                    self._wanted[_Listener(host, check.port)] = name
        self._wake.set()

    def problems(self) -> list[Problem]:
        """Health checks nobody can ask for; load balancers take this node for unhealthy."""
        found = [
            _problem(name, f"is also that of Service {first}")
            for name, first in self._claimed_twice.items()
        ]
        for listener, reason in self._failed.items():
            if listener in self._wanted:
                message = f"{listener.port} cannot be opened on {listener.host}: {reason}"
                found.append(_problem(self._wanted[listener], message))
        return sorted(found)

    async def serve(self, tell: Callable[[], None]) -> None:
        """Open and close listeners for ever; call `tell` when `problems` are others."""
        try:
            while True:
                # not wait_for: before Python 3.12 it may swallow a cancellation
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S if self._failed else None):
                        await self._wake.wait()
                self._wake.clear()
                before = self.problems()
                await self._adjust()
                if self.problems() != before or self._claimed_twice:
                    tell()
        finally:
            for server in self._open.values():
                server.close()
            self._open.clear()
            await self._server.shutdown()

    async def _adjust(self) -> None:
        # first what goes: a wildcard in place of single addresses needs their ports
        for listener in self._open.keys() - self._wanted.keys():
            self._open.pop(listener).close()
        self._failed = {item: why for item, why in self._failed.items() if item in self._wanted}
        for listener in list(self._wanted):
            if listener in self._open or listener not in self._wanted:  # others are wanted by now
                continue
            try:
                self._open[listener] = await self._server.listen(*listener, is_dual_stack=False)
            except OSError as error:
                self._failed[listener] = os.strerror(error.errno or 0)
            else:
                self._failed.pop(listener, None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any path (R97); kube-proxy's headers and body (R98)."""
        transport = request.transport
        local = transport.get_extra_info("sockname") if transport is not None else None
        answering = self._answers.get((6 if len(local) > 2 else 4, local[1])) if local else None
        if answering is None:  # it was closed in this moment
            return web.Response(status=503)
        is_healthy = self._health.is_alive(time.time())
        count = answering.endpoints
        body = {
            "service": {"namespace": answering.service.namespace, "name": answering.service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": is_healthy,
        }
        return web.Response(
            status=200 if count and is_healthy else 503,
            body=msgspec.json.encode(body),
            headers={
                "Content-Type": "application/json",
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(count),
            },
        )


def by_family(addresses: Iterable[bytes]) -> dict[int, list[str]]:
    """Addresses of 16 bytes as text, IPv4 under 4 and IPv6 under 6."""
    found: dict[int, list[str]] = {}
    for address in addresses:
        found.setdefault(family_of(address), []).append(format_address(address))
    return found


def _problem(name: ServiceName, what: str) -> Problem:
    return Problem(
        f"Service {name}",
        f"spec.healthCheckNodePort {what}; load balancers that ask there send nothing to this node",
        is_error=False,
        reason=ProblemReason.HEALTH_CHECK_FAILED,
    )
