# SPDX-License-Identifier: Apache-2.0
"""Versions of lists and watches, and servers whose past is another: F8, F9, F13, F14, F16."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.apiserver import ApiServer, Script
from tests.support.apiserver.faults import Answer
from tests.support.following import (
    following,
    line,
    run,
    service,
    versioned,
    watched,
)
from vipbee.sources.kubernetes.timing import Timing


def test_watch_begins_at_the_version_of_the_list_not_of_an_item() -> None:
    """F8: items are older than the list."""

    async def scenario(server: ApiServer) -> None:
        for number in range(5):  # the last write is no Service
            server.objects.put("nodes", {"metadata": {"name": f"other-{number}"}})
        revision = server.objects.revision
        async with following(server) as view:
            await view.until(lambda: watched(server))

            assert watched(server) == [str(revision)]

    run(scenario)


def test_bookmark_moves_the_version_and_nothing_else() -> None:
    """F9: it comes before the server ends a watch, and the next one begins there."""

    async def scenario(server: ApiServer) -> None:
        server.longest_watch_s = 0.05
        async with following(server) as view:
            server.objects.put("nodes", {"metadata": {"name": "other"}})
            revision = str(server.objects.revision)
            events = list(view.events)
            await view.until(lambda: watched(server)[-1:] == [revision])

            assert view.events == events

    run(scenario)


def test_initial_events_marker_is_no_object() -> None:
    """F9: a BOOKMARK has no spec; the annotation marks the end of sendInitialEvents."""
    bookmark = {
        "metadata": {
            "resourceVersion": "1007",
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
    }

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "watch", Script((line("BOOKMARK", bookmark),)))
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services") == 2)

            assert watched(server)[1] == "1007"
            assert view.services == {"a"}
            assert view.failures == {}

    run(scenario)


def test_list_in_pages_is_whole() -> None:
    """F13: and every page is asked for with the selection."""

    async def scenario(server: ApiServer) -> None:
        for number in range(7):
            server.objects.put("services", service(f"s{number}"))
        async with following(server, timing=Timing(page_size=3)) as view:
            assert len(view.services) == 8

            lists = [r for r in server.requests if r[:2] == ("list", "services")]
            assert [r.query["limit"] for r in lists] == ["3", "3", "3"]
            assert {r.query["labelSelector"] for r in lists} == {
                "!service.kubernetes.io/service-proxy-name"
            }

    run(scenario)


@pytest.mark.parametrize("times", [1, 2])
def test_expired_continue_token_begins_the_list_again(times: int) -> None:
    """F14: no partial list is used; the second time all comes in one piece."""

    async def scenario(server: ApiServer) -> None:
        for number in range(7):
            server.objects.put("services", service(f"s{number}"))
        left = [None] * times

        def expire(plural: str, token: str | None) -> None:
            if plural == "services" and left:
                left.pop()
                server.expire_continue_tokens()

        server.after_page = expire
        async with following(server, timing=Timing(page_size=3)) as view:
            assert len(view.services) == 8
            assert view.lists() == 1

            last = [r for r in server.requests if r[:2] == ("list", "services")][-1]
            assert ("limit" in last.query) == (times == 1)

    run(scenario)


def test_restored_backup_leads_to_a_list() -> None:
    """F16: the version we know is ahead of the server's; a watch from there would be silent."""

    async def scenario(server: ApiServer) -> None:
        backup = server.objects.backup()
        async with following(server) as view:
            for number in range(20):
                server.objects.put("services", service(f"s{number}"))
            await view.until(lambda: len(view.services) == 21)

            await server.crash()
            server.objects.restore(backup)
            server.objects.put("services", service("after"))
            await server.start()
            await view.until(lambda: view.services == {"a", "after"})

    run(scenario)


def test_long_outage_leads_to_a_list() -> None:
    """F16: a restored backup may have come past our version; no version tells that."""
    timing = Timing(outage_s=0.05, backoff_first_s=0.01, backoff_last_s=0.05)

    async def scenario(server: ApiServer) -> None:
        backup = server.objects.backup()
        async with following(server, timing=timing) as view:
            server.objects.put("services", service("lost"))
            await view.until(lambda: view.services == {"a", "lost"})

            await server.crash()
            await view.until(lambda: view.failures)
            server.objects.restore(backup)
            server.objects.put("services", service("after"))
            server.objects.put("services", service("later"))
            await asyncio.sleep(timing.outage_s)
            await server.start()
            await view.until(lambda: view.services == {"a", "after", "later"})

    run(scenario)


def test_versions_are_opaque() -> None:
    """F16: nothing is made of them but the next query."""

    async def scenario(server: ApiServer) -> None:
        item = versioned(service("b"), "v-ø/2&x=1")
        server.fail("services", "watch", Script((line("ADDED", item),)))
        server.fail("services", "watch", Answer(503), Answer(503))
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services") >= 3)

            assert watched(server)[1] == "v-ø/2&x=1"
            assert view.services == {"a", "b"}

    run(scenario)


def test_old_list_is_renewed_now_and_then() -> None:
    """F16, issue 4: a belt for what no protocol shows."""

    async def scenario(server: ApiServer) -> None:
        server.longest_watch_s = 0
        timing = Timing(relist_s=0.05, backoff_first_s=0.01, backoff_last_s=0.02)
        async with following(server, timing=timing) as view:
            await view.until(lambda: view.lists() >= 3)

    run(scenario)
