# SPDX-License-Identifier: Apache-2.0
"""The two servers on loopback: paths, headers, limits (R102, R105, R106)."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from prometheus_client import CollectorRegistry, Gauge

from vipbee.errors import KernelError, UsageError
from vipbee.observe.health import Health
from vipbee.observe.http import serve_health, serve_metrics
from vipbee.observe.listening import parse_bind


async def ask(port: int | None, path: str, *, method: str = "GET", more: str = "") -> list[bytes]:
    """[status line and headers, body] of one request."""
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.split(b"\r\n\r\n", 1)


async def status(port: int | None, path: str, **request: str) -> int:
    head, _ = await ask(port, path, **request)
    return int(head.split()[1])


def test_healthz_turns_from_503_to_200_and_is_json() -> None:
    async def scenario() -> None:
        health = Health()
        async with serve_health("127.0.0.1:0", health) as port:
            assert await status(port, "/healthz") == 503
            assert await status(port, "/livez") == 200

            health.synced(1.0)

            head, body = await ask(port, "/healthz")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"Content-Type: application/json" in head
            assert b"X-Content-Type-Options: nosniff" in head
            assert json.loads(body)["nodeEligible"] is True
            assert await status(port, "/elsewhere") == 404

    asyncio.run(scenario())


def test_metrics_server_has_kube_proxys_paths() -> None:
    async def scenario() -> None:
        registry = CollectorRegistry()
        Gauge("vipbee_example", "An example.", registry=registry).set(4)
        async with serve_metrics("127.0.0.1:0", registry, Health()) as port:
            head, body = await ask(port, "/metrics")
            assert b"Content-Type: text/plain" in head
            assert b"\nvipbee_example 4.0" in body
            assert (await ask(port, "/healthz"))[1] == b"ok"
            assert (await ask(port, "/proxyMode"))[1] == b"vipbee"

    asyncio.run(scenario())


def test_requests_are_small_and_read_only() -> None:
    """F72"""

    async def scenario() -> None:
        async with serve_health("127.0.0.1:0", Health()) as port:
            assert await status(port, "/livez", method="POST") == 405
            assert await status(port, "/livez", more=f"X: {'a' * 5000}\r\n") == 400
            assert await status(port, f"/livez?{'a' * 5000}") == 400
            assert await status(port, "/livez") == 200

    asyncio.run(scenario())


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """F72"""
    monkeypatch.setattr("vipbee.observe.listening._MAX_CONNECTIONS", 2)

    async def scenario() -> None:
        async with serve_health("127.0.0.1:0", Health()) as port:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            for _, open_writer in [*silent, (reader, writer)]:
                open_writer.close()

    asyncio.run(scenario())


def test_silent_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """F72"""
    monkeypatch.setattr("vipbee.observe.listening._CONNECTION_S", 0.05)

    async def scenario() -> None:
        async with serve_health("127.0.0.1:0", Health()) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("bind", ["", None])
def test_empty_address_disables_the_server(bind: str | None) -> None:
    async def scenario() -> int | None:
        async with serve_health(bind, Health()) as port:
            return port

    assert asyncio.run(scenario()) is None


def test_taken_port_is_one_clear_sentence() -> None:
    async def scenario(port: int) -> None:
        async with serve_metrics(("127.0.0.1", port), CollectorRegistry(), Health()):
            raise AssertionError("it listens")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(KernelError) as caught:
            asyncio.run(scenario(port))

    assert str(caught.value) == (
        f"metrics server cannot listen on 127.0.0.1:{port}: Address already in use: "
        "another program listens there; is kube-proxy still running?"
    )


@pytest.mark.parametrize("bind", ["127.0.0.1", ":80", "127.0.0.1:x", "1.2.3.4:70000", "a:１"])
def test_what_is_no_address_and_port_is_refused(bind: str) -> None:
    with pytest.raises(UsageError, match="--healthz-bind-address"):
        parse_bind("healthz", bind)


def test_ipv6_address_in_brackets() -> None:
    assert parse_bind("healthz", "[::]:10256") == ("::", 10256)
