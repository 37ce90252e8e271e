# SPDX-License-Identifier: Apache-2.0
"""The reflector against an API server that fails on demand: F1, F2, F4-F16, R8, R129."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.apiserver import ApiServer, Hang, Reset, Script, StallAfter
from tests.support.apiserver.faults import Answer, status_object
from tests.support.following import View, endpoint_slice, following, run, service
from vipbee.model import EndpointSlice, Service
from vipbee.sources.events import Changed
from vipbee.sources.kubernetes.timing import Timing


def watched(server: ApiServer) -> list[str]:
    """Versions from which Services were watched."""
    watches = [r for r in server.requests if r[:2] == ("watch", "services")]
    return [request.query["resourceVersion"] for request in watches]


def line(kind: str, item: object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


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


def test_odd_sequences_of_events_end_in_the_state_they_say() -> None:
    """F10: unknown type, ADDED twice, MODIFIED before ADDED, DELETED twice and stale."""
    a, b, c = (_versioned(service(name)) for name in "abc")
    stale = _versioned(service("a", "10.96.9.9"), "1")
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
            await view.until(lambda: _address(view, "s0") == "10.96.0.99")

            assert view.lists() == 1

    run(scenario)


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


@pytest.mark.parametrize("ending", ["end", "cut"])
def test_line_that_ends_too_early_is_read_again(ending: str) -> None:
    """F15: the next watch begins before it."""

    async def scenario(server: ApiServer) -> None:
        whole = line("ADDED", _versioned(service("c")))
        half = line("ADDED", service("b"))[:40]
        server.fail("services", "watch", Script((whole, half), ending))  # type: ignore[arg-type]
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services") >= 2)
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b", "c"})

    run(scenario)


def test_characters_cut_in_two_are_put_together() -> None:
    """F15: UTF-8 split at every byte of a chunk."""
    item = _versioned(service("b"))
    item["metadata"]["annotations"] = {"note": "žluťoučký 🐝"}
    data = json.dumps({"type": "ADDED", "object": item}, ensure_ascii=False).encode() + b"\n"

    async def scenario(server: ApiServer) -> None:
        pieces = tuple(data[at : at + 1] for at in range(len(data)))
        server.fail("services", "watch", Script(pieces, "stall"))
        async with following(server) as view:
            await view.until(lambda: view.services == {"a", "b"})

            [b] = [s for s in view.objects(Service) if s.metadata.name == "b"]
            assert b.metadata.annotations == {"note": "žluťoučký 🐝"}

    run(scenario)


def test_object_of_twenty_megabytes_is_read() -> None:
    """F15, F34."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            big = service("big")
            big["metadata"]["annotations"] = {"note": "x" * (20 << 20)}
            server.objects.put("services", big)
            await view.until(lambda: view.services == {"a", "big"})

    run(scenario)


def test_watch_that_never_makes_sense_is_listed_instead() -> None:
    """F15: what it would say comes by the list."""

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "watch", *[Script((b"{]\n",))] * 3)
        async with following(server) as view:
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})
            await view.until(lambda: view.lists() == 2)

    run(scenario)


def test_object_that_is_not_as_expected_costs_only_itself() -> None:
    """F33, F34: reported by name; what it said before stays, until it makes sense again."""

    async def scenario(server: ApiServer) -> None:
        odd = service("odd")
        odd["spec"]["ports"] = [{"port": "eighty"}]
        server.objects.put("services", odd)
        async with following(server) as view:
            assert view.services == {"a"}
            [complaint] = view.problems["API server: services"]
            assert "spec.ports[0].port" in complaint

            server.objects.put("services", service("odd"))
            await view.until(lambda: view.services == {"a", "odd"})
            assert view.problems["API server: services"] == []
            server.objects.put("services", odd)
            await view.until(lambda: view.problems["API server: services"])
            assert view.services == {"a", "odd"}

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
        item = _versioned(service("b"), "v-ø/2&x=1")
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


def _versioned(item: dict, version: str = "1004") -> dict:  # type: ignore[type-arg]
    item["metadata"]["resourceVersion"] = version
    item["metadata"].setdefault("namespace", "default")
    return item


def _address(view: View, name: str) -> str:
    [found] = [s for s in view.objects(Service) if s.metadata.name == name]
    assert isinstance(found, Service)
    return found.spec.clusterIP
