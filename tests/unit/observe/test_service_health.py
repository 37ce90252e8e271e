# SPDX-License-Identifier: Apache-2.0
"""healthCheckNodePort on loopback: answers, and listeners that come and go (R96–R100, R117)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping

import pytest

from vipbee.core.health_checks import HealthCheck
from vipbee.model import ServiceName
from vipbee.observe.health import Health
from vipbee.observe.listening import make_listener
from vipbee.observe.service_health import ServiceHealthServers

WEB, API = ServiceName("default", "web"), ServiceName("default", "api")
LOOPBACK = {4: ["127.0.0.1"], 6: ["::1"]}


def free_port() -> int:
    """A port that is free in both families."""
    with make_listener("::", 0) as made:
        return int(made.getsockname()[1])


class Node:
    """Servers that run, and what they told."""

    def __init__(self, servers: ServiceHealthServers) -> None:
        self.servers = servers
        self.told = asyncio.Event()

    def follow(self, checks: Mapping[ServiceName, HealthCheck]) -> None:
        self.servers.follow(checks, LOOPBACK)

    async def ask(self, port: int, host: str = "127.0.0.1", path: str = "/") -> tuple[str, str]:
        """(head, body), or ("", "") if nobody listens."""
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return "", ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return head, body

    async def status(self, port: int, host: str = "127.0.0.1") -> int:
        """0: nobody listens."""
        head, _ = await self.ask(port, host)
        return int(head.split()[1]) if head else 0

    async def until(self, port: int, status: int, host: str = "127.0.0.1") -> None:
        async with asyncio.timeout(5):
            while await self.status(port, host) != status:
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(health: Health | None = None) -> AsyncIterator[Node]:
    servers = ServiceHealthServers(health or Health())
    node = Node(servers)
    task = asyncio.create_task(servers.serve(node.told.set))
    try:
        yield node
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_answer_is_kube_proxys() -> None:
    """R97, R98: any path, 200 with local endpoints, count in header and body."""

    async def scenario() -> None:
        port = free_port()
        async with running() as node:
            node.follow({WEB: HealthCheck(port, {4: 2})})
            await node.until(port, 200)

            head, body = await node.ask(port, path="/any/where?x=1")

            assert "Content-Type: application/json" in head
            assert "X-Content-Type-Options: nosniff" in head
            assert "X-Load-Balancing-Endpoint-Weight: 2" in head
            assert json.loads(body) == {
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": 2,
                "serviceProxyHealthy": True,
            }

    asyncio.run(scenario())


def test_503_without_local_endpoints_and_while_updates_are_stuck() -> None:
    """R97, R103."""

    async def scenario() -> None:
        port, health = free_port(), Health()
        async with running(health) as node:
            node.follow({WEB: HealthCheck(port, {4: 0})})
            await node.until(port, 503)
            node.follow({WEB: HealthCheck(port, {4: 1})})
            at_once = await node.status(port)
            health.queued(1.0)  # in 1970, and never programmed since

            head, body = await node.ask(port)

            assert at_once == 200
            assert head.split()[1] == "503"
            assert json.loads(body)["serviceProxyHealthy"] is False
            assert json.loads(body)["localEndpoints"] == 1

    asyncio.run(scenario())


def test_families_answer_for_themselves() -> None:
    """R96, R117: one listener a family, each with its own count; IPv4 only means IPv4 only."""

    async def scenario() -> None:
        dual, single = free_port(), free_port()
        async with running() as node:
            node.follow({WEB: HealthCheck(dual, {4: 0, 6: 1}), API: HealthCheck(single, {4: 1})})
            await node.until(dual, 200, "::1")
            await node.until(single, 200)

            assert await node.status(dual) == 503
            assert await node.status(single, "::1") == 0

    asyncio.run(scenario())


def test_listener_goes_with_its_service_and_others_stay_open() -> None:
    """R100: a connection that was open before is answered, no listener was opened anew."""

    async def scenario() -> None:
        stays, goes, comes = free_port(), free_port(), free_port()
        async with running() as node:
            node.follow({WEB: HealthCheck(stays, {4: 1}), API: HealthCheck(goes, {4: 1})})
            await node.until(goes, 200)
            await node.until(stays, 200)
            reader, writer = await asyncio.open_connection("127.0.0.1", stays)

            node.follow({WEB: HealthCheck(stays, {4: 1}), API: HealthCheck(comes, {4: 1})})
            await node.until(comes, 200)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert await node.status(goes) == 0
            writer.close()

    asyncio.run(scenario())


def test_port_that_changes_hands_answers_for_its_new_owner() -> None:
    """Within one step, so that the listener never closes."""

    async def scenario() -> None:
        port = free_port()
        async with running() as node:
            node.follow({WEB: HealthCheck(port, {4: 1})})
            await node.until(port, 200)

            node.follow({API: HealthCheck(port, {4: 3})})
            _, body = await node.ask(port)

            assert json.loads(body)["service"]["name"] == "api"
            assert json.loads(body)["localEndpoints"] == 3

    asyncio.run(scenario())


def test_port_that_is_taken_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R100: other Services are served meanwhile, and this one as soon as it can be."""
    monkeypatch.setattr("vipbee.observe.service_health.RETRY_S", 0.01)

    async def scenario() -> None:
        free = free_port()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            async with running() as node:
                node.follow({WEB: HealthCheck(taken, {4: 1}), API: HealthCheck(free, {4: 1})})
                await asyncio.wait_for(node.told.wait(), 5)
                await node.until(free, 200)
                problem = node.servers.problems()
                node.told.clear()

                other.close()
                await node.until(taken, 200)
                await asyncio.wait_for(node.told.wait(), 5)

                assert [told.object for told in problem] == ["Service default/web"]
                assert f"{taken} cannot be opened on 127.0.0.1: Address" in problem[0].message
                assert node.servers.problems() == []

    asyncio.run(scenario())


def test_port_of_two_services_belongs_to_the_first_and_is_told() -> None:
    """A state file may say so; an API server would not."""

    async def scenario() -> None:
        port = free_port()
        async with running() as node:
            node.follow({WEB: HealthCheck(port, {4: 1}), API: HealthCheck(port, {4: 1})})
            await node.until(port, 200)

            assert json.loads((await node.ask(port))[1])["service"]["name"] == "api"
            assert [told.object for told in node.servers.problems()] == ["Service default/web"]

    asyncio.run(scenario())


def test_each_service_is_one_socket_and_none_is_left() -> None:
    """Thousands of Services are affordable: one file descriptor each, no thread, no timer."""

    async def scenario() -> None:
        names = [ServiceName("default", f"web-{n:03}") for n in range(300)]
        checks = {name: HealthCheck(40_000 + n, {4: 1}) for n, name in enumerate(names)}
        before = len(os.listdir("/proc/self/fd"))
        async with running() as node:
            node.follow(checks)
            await node.until(40_299, 200)  # they are opened in the order of names
            opened = len(os.listdir("/proc/self/fd")) - before
            refused = len(node.servers.problems())
        after = len(os.listdir("/proc/self/fd"))

        assert 300 - refused <= opened <= 300 - refused + 2  # that of `ask` may be open still
        assert after <= before + 1

    asyncio.run(scenario())
