# SPDX-License-Identifier: Apache-2.0
"""A first list without the slices of Services that were served (F17)."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from tests.support import following
from tests.support.apiserver import ApiServer
from tests.support.services import endpoint_slice
from vipbee.model import EndpointSlice, ServiceName
from vipbee.sources.events import Changed, Failed, Loaded, ObjectName, Removed, SourceEvent
from vipbee.sources.kubernetes.first_slices import SOURCE, FirstSlices
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.mirror import MassDeleteGuard, Mirror
from vipbee.sources.kubernetes.resources import ENDPOINT_SLICES
from vipbee.sources.kubernetes.wire import Batch

GUARD = MassDeleteGuard(share=0.5, minimum=20, hold_s=300)
FIELD = 30
SERVED = [ServiceName("default", f"s{n}") for n in range(FIELD)]


def first_slices(
    guard: MassDeleteGuard = GUARD,
    served: list[ServiceName] = SERVED,
    listed: Callable[[], Collection[ServiceName] | None] = lambda: SERVED,
) -> FirstSlices:
    return FirstSlices(Mirror(ENDPOINT_SLICES, guard), guard, served, listed)


def item(number: int) -> EndpointSlice:
    return endpoint_slice("10.0.0.1", name=f"s{number}-x", service=f"s{number}")


def objects(*numbers: int) -> dict[ObjectName, EndpointSlice]:
    return {ObjectName("EndpointSlice", "default", f"s{n}-x"): item(n) for n in numbers}


def listing(*numbers: int) -> Listing:
    return Listing(dict(objects(*numbers)), {}, "1")


def batch(*numbers: int) -> Batch:
    return Batch(dict(objects(*numbers)), {}, "2")


def count(events: list[SourceEvent]) -> int:
    """Objects in the list that was told."""
    [loaded] = [event for event in events if isinstance(event, Loaded)]
    return len(loaded.objects)


def test_list_that_has_most_of_them_is_told() -> None:
    kind = first_slices()

    events = kind.listed(listing(*range(20)))

    assert count(events) == 20
    assert len(events) == 1
    assert kind.is_told
    assert not kind.is_holding


def test_list_without_them_is_not_told_and_reported_once() -> None:
    """F17"""
    kind = first_slices()

    first, second = kind.listed(listing(0)), kind.listed(listing(0))

    [failed] = first
    assert isinstance(failed, Failed)
    assert failed.source == SOURCE
    assert "no endpointslices of 29 of 30 Services" in str(failed.error)
    assert second == []
    assert not kind.is_told
    assert kind.is_holding


def test_slices_that_come_after_all_are_told_with_the_rest() -> None:
    """By watch or by another list, as soon as most are there."""
    watched, listed = first_slices(), first_slices()
    watched.listed(listing(0))
    listed.listed(listing(0))

    few = watched.changed(batch(1, 2))
    enough = watched.changed(batch(*range(3, 20)))
    again = listed.listed(listing(*range(FIELD)))

    assert few == []
    assert count(enough) == 20
    assert Removed(SOURCE) in enough
    assert count(again) == FIELD


def test_services_that_are_gone_need_no_slices() -> None:
    """Others must not wait for them: whether they are gone is told by the list of Services."""
    kind = first_slices(listed=lambda: [ServiceName("default", "new"), *SERVED[:5]])

    assert count(kind.listed(listing(0))) == 1
    assert kind.is_told


def test_nothing_is_said_before_services_are_listed() -> None:
    known: list[list[ServiceName]] = []
    held, told = (first_slices(listed=lambda: known[0] if known else None) for _ in range(2))

    before = held.weigh(), held.listed(listing(0)), told.listed(listing(0))
    known.append(SERVED)
    doubted = held.weigh()
    known[0] = []

    assert before == ([], [], [])
    assert [type(event) for event in doubted] == [Failed]
    assert count(told.weigh()) == 1
    assert told.weigh() == []


def test_when_the_time_is_over_it_is_believed() -> None:
    kind = first_slices()
    kind.listed(listing(0))

    events = kind.release()

    assert count(events) == 1
    assert Removed(SOURCE) in events
    assert not kind.is_holding
    assert [type(event) for event in kind.changed(batch(5))] == [Changed]


@pytest.mark.parametrize(
    ("guard", "served"),
    [
        (MassDeleteGuard(hold_s=0), SERVED),
        (GUARD, SERVED[:20]),
        (GUARD, []),
    ],
    ids=["guard off", "too few to judge", "nothing programmed before"],
)
def test_empty_list_is_believed_where_there_is_no_doubt(
    guard: MassDeleteGuard, served: list[ServiceName]
) -> None:
    kind = first_slices(guard, served)

    assert count(kind.listed(listing())) == 0
    assert kind.is_told


# ---- the whole source -------------------------------------------------------------------------


def test_restarted_agent_waits_for_slices_of_listed_services_only() -> None:
    """F17, F1: nothing is complete until they come; a new Service waits for none of them."""

    async def scenario(server: ApiServer) -> None:
        gone = following.following(server, guard=GUARD, served=SERVED)
        async with gone as view:  # complete at once: none of SERVED is listed
            assert view.services == {"a"}
        for n in range(FIELD):
            server.objects.put("services", following.service(f"s{n}", f"10.96.1.{n + 1}"))
        async with following.following(server, guard=GUARD, served=SERVED, synced=False) as view:
            await view.until(lambda: view.complained("no endpointslices of 30 of 30 Services"))
            was_synced = view.is_synced
            for n in range(FIELD):
                server.objects.put("endpointslices", following.endpoint_slice(f"s{n}"))
            await view.until(lambda: view.is_synced)
            await view.until(lambda: len(view.slices) == FIELD + 1)

            assert not was_synced
            assert view.failures == {}

    following.run(scenario)
