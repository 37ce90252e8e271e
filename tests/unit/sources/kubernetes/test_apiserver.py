# SPDX-License-Identifier: Apache-2.0
"""The test API server itself, where no reflector of ours would notice: F9, F13, F16."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.support.apiserver import ApiServer
from tests.support.apiserver.selectors import selector
from tests.support.following import run, service

SERVICES = "/api/v1/services"


async def events(server: ApiServer, **query: str) -> list[dict[str, Any]]:
    """What a watch says until it ends, or its status as the only item."""
    query = {"watch": "true", "timeoutSeconds": "0", **query}
    body = (await get(server, query))[1]
    return [json.loads(line) for line in body.splitlines()]


async def get(server: ApiServer, query: dict[str, str]) -> tuple[int, bytes]:
    url = server.url + SERVICES
    async with aiohttp.ClientSession() as session, session.get(url, params=query) as response:
        return response.status, await response.read()


def test_initial_events_end_with_a_marked_bookmark() -> None:
    """F9, KEP-3157."""

    async def scenario(server: ApiServer) -> None:
        added, marker = await events(
            server, sendInitialEvents="true", resourceVersionMatch="NotOlderThan"
        )

        assert (added["type"], added["object"]["metadata"]["name"]) == ("ADDED", "a")
        assert marker["type"] == "BOOKMARK"
        assert marker["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert "spec" not in marker["object"]
        [refused] = await events(server, sendInitialEvents="true")
        assert refused["code"] == 422

    run(scenario)


def test_watch_from_the_future_is_silent_and_a_list_from_there_refused() -> None:
    """F16."""

    async def scenario(server: ApiServer) -> None:
        assert await events(server, resourceVersion="999999") == []

        code, body = await get(server, {"resourceVersion": "999999"})
        assert code == 504
        assert json.loads(body)["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"

    run(scenario)


def test_watch_tells_everything_since_its_version() -> None:
    """F11: in order, with the version of each write."""

    async def scenario(server: ApiServer) -> None:
        before = server.objects.revision
        server.objects.put("services", service("b"))
        server.objects.put("services", service("b", "10.96.0.2"))
        server.objects.delete("services", "b")

        told = await events(server, resourceVersion=str(before))

        assert [event["type"] for event in told] == ["ADDED", "MODIFIED", "DELETED"]
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in told]
        assert versions == [before + 1, before + 2, before + 3]
        assert told[2]["object"]["spec"]["clusterIP"] == "10.96.0.2"

    run(scenario)


@pytest.mark.parametrize(
    ("labels", "fields", "expected"),
    [
        ("", "", True),
        ("a", "", True),
        ("!a", "", False),
        ("!b", "", True),
        ("a=1,!b", "", True),
        ("a!=1", "", False),
        ("", "metadata.name=x", True),
        ("", "metadata.name=y", False),
    ],
)
def test_selectors(labels: str, fields: str, expected: bool) -> None:
    item = {"metadata": {"name": "x", "labels": {"a": "1"}}}

    assert selector(labels, fields)(item) == expected
