# SPDX-License-Identifier: Apache-2.0
"""The reflector against an API server that comes, goes and stalls: F1-F7, F10, F11, R8, R129.

What it refuses, tears or forgets: test_refusals.py, test_broken_streams.py, test_versions.py.
"""

from __future__ import annotations

import pytest

from tests.support.apiserver import ApiServer, Hang, Reset, Script, StallAfter
from tests.support.apiserver.faults import Answer
from tests.support.following import (
    View,
    endpoint_slice,
    following,
    line,
    run,
    service,
    versioned,
)
from vipbee.model import EndpointSlice, Service
from vipbee.sources.events import Changed
from vipbee.sources.kubernetes.timing import Timing


def test_complete_lists_come_before_synced_and_changes_after() -> None:
    """R8, F18: and only the own Node is read (R9)."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            assert (view.services, view.slices, view.nodes) == ({"a"}, {"a"}, {"node-1"})

            server.objects.put("services", service("b"))
            server.objects.delete("endpointslices", "a")
            await view.until(lambda: view.services == {"a", "b"} and not view.slices)

            assert view.lists() == 1

    run(scenario)


def test_objects_that_leave_the_selection_are_deleted() -> None:
    """R2, R3, F28: labels are selected by the server, and adding one is a delete."""

    async def scenario(server: ApiServer) -> None:
        proxied = {"service.kubernetes.io__service-proxy-name": ""}
        server.objects.put("services", service("elsewhere", **proxied))
        async with following(server) as view:
            assert view.services == {"a"}

            server.objects.put("services", service("a", **proxied))
            await view.until(lambda: not view.services)
            server.objects.put("services", service("a"))
            await view.until(lambda: view.services == {"a"})

    run(scenario)


def test_nothing_is_synced_until_the_server_answers() -> None:
    """F1, F2: refused connections are retried and reported; then everything is listed."""

    async def scenario(server: ApiServer) -> None:
        await server.crash()
        async with following(server, synced=False) as view:
            await view.until(lambda: len(view.failures) == 3)
            assert "refused" in view.failures["API server: services"].lower()
            assert not view.is_synced

            await server.start()
            await view.until(lambda: view.is_synced)
            assert view.failures == {}

    run(scenario)


def test_lost_server_changes_nothing_and_is_caught_up_with() -> None:
    """F4, R129: no event during the gap but the report; the watch resumes, nothing is listed."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services"))

            await server.crash()
            await view.until(lambda: len(view.failures) == 3)
            server.objects.put("services", service("b"))
            server.objects.delete("services", "a")
            before = view.services
            await server.start()
            await view.until(lambda: view.services == {"b"})

            assert before == {"a"}
            assert view.lists() == 1
            await view.until(lambda: not view.failures)

    run(scenario)


@pytest.mark.parametrize("is_event", [True, False])
def test_gone_lists_again_and_deletes_only_what_is_gone(is_event: bool) -> None:
    """F5: 410 as ERROR event and as status; compared, not flushed."""

    async def scenario(server: ApiServer) -> None:
        server.is_gone_an_event = is_event
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services"))
            await server.crash()
            server.objects.put("services", service("b"))
            server.objects.delete("services", "a")
            server.objects.compact()
            await server.start()
            await view.until(lambda: view.services == {"b"})

            assert view.lists() == 2
            assert not [e for e in view.events if isinstance(e, Changed) and e.deleted]

    run(scenario)


def test_repeated_gone_is_not_asked_in_a_circle() -> None:
    """F5: the loop of "resourceVersion None"; each round waits longer."""

    async def scenario(server: ApiServer) -> None:
        gone = Answer(410, "Expired")
        server.fail("services", "watch", *[gone] * 4)
        async with following(server) as view:
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})
            await view.until(lambda: server.count("watch", "services") == 5)

            assert server.count("list", "services") == 5

    run(scenario)


def test_half_open_watch_is_given_up_and_resumed() -> None:
    """F6: TCP is alive, nothing comes; found after watch_s + grace_s."""
    timing = Timing(watch_s=0, grace_s=0.3, backoff_first_s=0.01, backoff_last_s=0.05)

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "watch", StallAfter(events=1))
        async with following(server, timing=timing) as view:
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})

            server.objects.put("services", service("c"))
            await view.until(lambda: view.services == {"a", "b", "c"})

            assert view.lists() == 1

    run(scenario)


def test_half_open_watch_is_found_within_a_minute() -> None:
    """F6: what the defaults come to; the server ends every watch before that."""
    timing = Timing()

    assert timing.watch_s < timing.silence_s <= 60


def test_list_that_is_never_answered_is_asked_again() -> None:
    """F6, for lists."""
    timing = Timing(read_s=0.2, backoff_first_s=0.01)

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "list", Hang(), Reset())
        async with following(server, timing=timing) as view:
            assert view.services == {"a"}

    run(scenario)


def test_watch_ended_by_the_server_is_resumed_without_a_list() -> None:
    """F7: from the last version, and not in a hot circle."""

    async def scenario(server: ApiServer) -> None:
        server.longest_watch_s = 0
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services") > 5)
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})

            assert view.lists() == 1

    run(scenario)


def test_odd_sequences_of_events_end_in_the_state_they_say() -> None:
    """F10: unknown type, ADDED twice, MODIFIED before ADDED, DELETED twice and stale."""
    a, b, c = (versioned(service(name)) for name in "abc")
    stale = versioned(service("a", "10.96.9.9"), "1")
    lines = [
        line("SURPRISE", a),
        line("ADDED", a),
        line("ADDED", a),
        line("MODIFIED", b),
        line("DELETED", stale),
        line("DELETED", stale),
        line("DELETED", c),
    ]

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "watch", Script(tuple(lines), "stall"))
        async with following(server) as view:
            await view.until(lambda: view.services == {"b"})

            assert view.failures == {}

    run(scenario)


def test_update_during_a_list_is_not_lost() -> None:
    """F11: it is not in the pages read, and comes by the watch from their version."""

    async def scenario(server: ApiServer) -> None:
        for number in range(4):
            server.objects.put("services", service(f"s{number}"))
        timing = Timing(page_size=2, backoff_first_s=0.01)

        def write(plural: str, token: str | None) -> None:
            if plural == "services" and token is None:
                server.objects.put("services", service("s0", "10.96.0.99"))
                server.objects.delete("services", "s3")

        server.after_page = write
        async with following(server, timing=timing) as view:
            await view.until(lambda: view.services == {"a", "s0", "s1", "s2"})
            await view.until(lambda: address_of(view, "s0") == "10.96.0.99")

            assert view.lists() == 1

    run(scenario)


def test_many_changes_end_in_the_exact_state() -> None:
    """R126, R132, F22: with watches that break in between."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            for number in range(600):
                name = f"s{number % 50}"
                server.objects.put("endpointslices", endpoint_slice(name, f"10.0.{number % 250}.1"))
                if number % 7 == 0:
                    server.objects.delete("endpointslices", name)
                if number % 100 == 50:
                    await view.until(lambda: view.slices)
                    server.break_connections()
            server.objects.put("endpointslices", endpoint_slice("last"))
            await view.until(lambda: "last" in view.slices)

            wanted = {
                (
                    stored.manifest["metadata"]["name"],
                    stored.manifest["endpoints"][0]["addresses"][0],
                )
                for stored in server.objects.items["endpointslices"].values()
            }
            found = {
                (item.metadata.name, item.endpoints[0].addresses[0])
                for item in view.objects(EndpointSlice)
                if isinstance(item, EndpointSlice) and item.endpoints
            }
            assert found == wanted

    run(scenario)


def address_of(view: View, name: str) -> str:
    [found] = [s for s in view.objects(Service) if s.metadata.name == name]
    assert isinstance(found, Service)
    return found.spec.clusterIP
