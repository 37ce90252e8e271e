# SPDX-License-Identifier: Apache-2.0
"""Events on their way to an API server that accepts what a real one does, or does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.apiserver import ApiServer
from tests.support.following import FAST
from vipbee.kube_events import ledger
from vipbee.kube_events.recorder import EventRecorder
from vipbee.model import Problem, ProblemReason
from vipbee.sources.kubernetes import Access

TAKEN = Problem("Service default/web", "port taken", False, ProblemReason.HEALTH_CHECK_FAILED)
CONFLICT = Problem("Service default/web", "conflict", True, ProblemReason.FRONTEND_CONFLICT)
FULL = Problem("Node addresses", "full", True, ProblemReason.MAP_FULL)
WITHIN_S = 10.0


@contextlib.asynccontextmanager
async def recording(server: ApiServer, node: str = "node-a") -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(
        lambda: Access(servers=(server.url,)), node, lambda *_: "uid-1", timing=FAST
    )
    task = asyncio.create_task(recorder.record())
    try:
        yield recorder
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not fact():
            await asyncio.sleep(0.002)


def test_problems_become_events_that_the_server_accepts() -> None:
    async def scenario() -> None:
        async with ApiServer().running() as server, recording(server) as recorder:
            recorder.tell([TAKEN, CONFLICT, FULL])
            await until(lambda: len(server.events.items) == 3)
            recorder.tell([TAKEN, CONFLICT, FULL])

            assert {namespace for namespace, _ in server.events.items} == {"default"}
            assert sorted(server.events.notes) == [
                "conflict",
                "node node-a: full",
                "node node-a: port taken",
            ]
            assert server.events.requests == [("POST", 201)] * 3

    asyncio.run(scenario())


def test_two_nodes_write_one_event_about_what_both_see() -> None:
    async def scenario() -> None:
        async with (
            ApiServer().running() as server,
            recording(server) as one,
            recording(server, "node-b") as two,
        ):
            one.tell([CONFLICT, TAKEN])
            await until(lambda: len(server.events.items) == 2)
            two.tell([CONFLICT, TAKEN])
            await until(lambda: len(server.events.requests) == 4)

            assert sorted(server.events.notes) == [
                "conflict",
                "node node-a: port taken",
                "node node-b: port taken",
            ]
            assert ("PATCH", 200) not in server.events.requests

    asyncio.run(scenario())


def test_what_comes_back_is_counted_and_written_anew_once_it_has_expired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "FLAP_S", 0.0)

    async def scenario() -> None:
        async with ApiServer().running() as server, recording(server) as recorder:
            recorder.tell([TAKEN])
            await until(lambda: server.events.items)
            recorder.tell([])
            recorder.tell([TAKEN])
            await until(lambda: ("PATCH", 200) in server.events.requests)
            (item,) = server.events.items.values()
            server.events.items.clear()
            recorder.tell([])
            recorder.tell([TAKEN])
            await until(lambda: server.events.items)

            assert item["series"]["count"] == 2
            assert server.events.requests[2:] == [("PATCH", 404), ("POST", 201)]

    asyncio.run(scenario())


def test_restarted_agent_counts_its_own_event_on() -> None:
    async def scenario() -> None:
        async with ApiServer().running() as server:
            async with recording(server) as recorder:
                recorder.tell([TAKEN])
                await until(lambda: server.events.items)
            async with recording(server) as recorder:
                recorder.tell([TAKEN])
                await until(lambda: ("PATCH", 200) in server.events.requests)

            assert len(server.events.items) == 1

    asyncio.run(scenario())


def test_server_that_fails_is_asked_again() -> None:
    """503 and 429, and a server that is not there at all."""

    async def scenario() -> None:
        server = ApiServer()
        server.events.fail = [503, 429]
        async with server.running():
            await server.crash()
            async with recording(server) as recorder:
                recorder.tell([TAKEN])
                await asyncio.sleep(0)
                await server.start()
                await until(lambda: server.events.items)

            assert [code for _, code in server.events.requests] == [503, 429, 201]

    asyncio.run(scenario())


def test_forbidden_events_are_given_up_with_one_hint(caplog: pytest.LogCaptureFixture) -> None:
    """No RBAC for Events: everything else works, and the log says what is missing."""

    async def scenario() -> None:
        server = ApiServer()
        server.events.is_forbidden = True
        async with server.running(), recording(server) as recorder:
            recorder.tell([TAKEN, CONFLICT])
            await until(lambda: len(server.events.requests) == 2)
            recorder.tell([TAKEN, CONFLICT, FULL])
            await until(lambda: len(server.events.requests) == 3)

            assert server.events.requests == [("POST", 403)] * 3

    asyncio.run(scenario())

    complaints = [r for r in caplog.records if r.message == "Kubernetes Events cannot be written"]
    assert len(complaints) == 1
    assert "create and patch of events" in complaints[0].vipbee_fields["hint"]  # type: ignore[attr-defined]
