# SPDX-License-Identifier: Apache-2.0
"""What an API server refuses, and what becomes of the state meanwhile: F12, F15, F17."""

from __future__ import annotations

import pytest

from tests.support.apiserver import ApiServer, Script
from tests.support.apiserver.faults import Answer, status_object
from tests.support.following import (
    following,
    line,
    run,
    service,
)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, "TooManyRequests", headers={"Retry-After": "1"}),
        Answer(503, "ServiceUnavailable"),
        Answer(500, "InternalError"),
        Answer(200, headers={"Content-Encoding": "gzip"}),  # and it is not
        Script((b"no JSON at all",)),
        Script((b'{"metadata": {}, "items": []}',)),
        Script((b'{"metadata": {"resourceVersion": "7"}, "items": [{"met',)),
    ],
)
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_errors_of_the_server_are_survived(answer: Answer | Script, verb: str) -> None:
    """F12, F15: what is no answer is asked for again."""

    async def scenario(server: ApiServer) -> None:
        server.fail("services", verb, answer)  # type: ignore[arg-type]
        async with following(server) as view:
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})

            assert server.count(verb, "services") >= 2  # type: ignore[arg-type]

    run(scenario)


def test_watch_is_refused_by_an_error_event_and_goes_on() -> None:
    """F12: a Status other than 410 inside a 200 stream."""
    busy = status_object(429, "TooManyRequests", "slow down")

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "watch", Script((line("ERROR", busy),)))
        async with following(server) as view:
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})

            assert view.lists() == 1

    run(scenario)


def test_missing_right_is_reported_and_taken_up_when_given() -> None:
    """F12: 403. State stays; without Services nothing is programmed."""

    async def scenario(server: ApiServer) -> None:
        server.forbidden = {"services"}
        async with following(server, synced=False) as view:
            await view.until(lambda: "forbidden" in str(view.failures) and view.slices)
            assert not view.is_synced

            server.forbidden.clear()
            await view.until(lambda: view.is_synced and not view.failures)

            assert view.services == {"a"}

    run(scenario)


def test_right_lost_later_keeps_the_state() -> None:
    """F12, F17: RBAC taken away is no deletion."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            server.forbidden = {"services", "endpointslices", "nodes"}
            server.break_connections()
            await view.until(lambda: len(view.failures) == 3)

            assert (view.services, view.slices, view.nodes) == ({"a"}, {"a"}, {"node-1"})
            assert "last good state" in view.failures["API server: services"]

    run(scenario)


def test_node_that_may_not_be_read_does_not_hold_up_services() -> None:
    """R8, R9: it is reported and makes the state incomplete, so that nothing is deleted."""

    async def scenario(server: ApiServer) -> None:
        server.forbidden = {"nodes"}
        async with following(server) as view:
            assert view.services == {"a"}
            assert "API server: nodes" in view.failures

            server.forbidden.clear()
            await view.until(lambda: view.nodes == {"node-1"} and not view.failures)

    run(scenario)
