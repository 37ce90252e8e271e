# SPDX-License-Identifier: Apache-2.0
"""What the agent is told of one kind; lists that lost most of it (F10, F17, F33)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.services import service
from vipbee.model import ApiObject, Problem
from vipbee.sources.events import Changed, Failed, Loaded, ObjectName, Removed, SourceEvent
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.mirror import MassDeleteGuard, Mirror
from vipbee.sources.kubernetes.resources import SERVICES, own_node
from vipbee.sources.kubernetes.wire import Batch

GUARD = MassDeleteGuard(share=0.5, minimum=20, hold_s=300)
FIELD = 30


def name(number: int) -> ObjectName:
    return ObjectName("Service", "default", f"s{number}")


def item(number: int, ip: str = "10.96.0.10") -> ApiObject:
    return service(f"s{number}", clusterIP=ip)


def listing(*numbers: int) -> Listing:
    return Listing({name(n): item(n) for n in numbers}, {}, "1")


def shown(events: list[SourceEvent]) -> set[str]:
    """Names in the list that was delivered."""
    [loaded] = [event for event in events if isinstance(event, Loaded)]
    return {found.metadata.name for found in loaded.objects}


def complaints(events: list[SourceEvent]) -> list[str]:
    return [p.message for e in events if isinstance(e, Loaded | Changed) for p in e.problems]


@pytest.fixture
def mirror() -> Mirror:
    """Of 30 Services."""
    mirror = Mirror(SERVICES, GUARD)
    mirror.listed(listing(*range(FIELD)))
    return mirror


def test_list_that_lost_most_is_held_and_reported(mirror: Mirror) -> None:
    """F17: what it lacks stays, what is new is taken; later it is believed."""
    events = mirror.listed(listing(0, 1, 99))

    assert len(shown(events)) == FIELD + 1
    assert mirror.is_holding
    [complaint] = complaints(events)
    assert complaint.startswith("lists 28 of 31 services no longer: they are kept for 300 s")
    [changed] = mirror.release()
    assert isinstance(changed, Changed)
    assert set(changed.deleted) == {name(number) for number in range(2, FIELD)}
    assert changed.problems == ()
    assert not mirror.is_holding


def test_list_that_is_whole_again_ends_the_hold(mirror: Mirror) -> None:
    """F17."""
    mirror.listed(listing())

    events = mirror.listed(listing(*range(FIELD)))

    assert complaints(events) == []
    assert not mirror.is_holding
    assert mirror.release() == []


def test_second_list_that_lacks_them_does_not_end_the_hold(mirror: Mirror) -> None:
    """F17: a faulty server says the same twice."""
    mirror.listed(listing())

    assert len(shown(mirror.listed(listing()))) == FIELD
    assert mirror.is_holding


@pytest.mark.parametrize(("kept", "is_held"), [(15, False), (14, True)])
def test_half_may_go_at_once(mirror: Mirror, kept: int, is_held: bool) -> None:
    """F17: more than half is what trips the guard."""
    mirror.listed(listing(*range(kept)))

    assert mirror.is_holding == is_held


def test_few_objects_may_all_go_at_once() -> None:
    """F17: 20 and fewer are not guarded."""
    mirror = Mirror(SERVICES, GUARD)
    mirror.listed(listing(*range(20)))

    assert shown(mirror.listed(listing())) == set()


def test_guard_can_be_switched_off() -> None:
    """F17."""
    mirror = Mirror(SERVICES, MassDeleteGuard(hold_s=0))
    mirror.listed(listing(*range(FIELD)))

    assert shown(mirror.listed(listing())) == set()


def test_deletions_that_are_said_are_believed(mirror: Mirror) -> None:
    """F17: also of what is held, and however many."""
    mirror.listed(listing())

    [changed] = mirror.changed(Batch({name(number): None for number in range(FIELD)}))

    assert isinstance(changed, Changed)
    assert len(changed.deleted) == FIELD
    assert not mirror.is_holding


def test_what_comes_back_while_held_is_held_no_longer(mirror: Mirror) -> None:
    """F17."""
    mirror.listed(listing())
    mirror.changed(Batch({name(3): item(3)}))

    [changed] = mirror.release()

    assert isinstance(changed, Changed)
    assert name(3) not in changed.deleted
    assert len(changed.deleted) == FIELD - 1


def test_first_list_is_compared_with_what_is_programmed() -> None:
    """F17, F1: after a restart only names are known; a source that failed stands for them."""
    programmed = [name(number) for number in range(FIELD)]
    mirror = Mirror(SERVICES, GUARD, programmed)

    failed, loaded = mirror.listed(listing(0))

    assert isinstance(failed, Failed)
    assert "29 of 30 services" in str(failed.error)
    assert isinstance(loaded, Loaded)
    assert mirror.release() == [Removed(failed.source)]
    assert not mirror.is_holding


def test_first_list_with_most_of_what_is_programmed_is_believed() -> None:
    """F17, R128: what was deleted meanwhile is removed."""
    mirror = Mirror(SERVICES, GUARD, [name(number) for number in range(FIELD)])

    assert len(mirror.listed(listing(*range(20)))) == 1
    assert not mirror.is_holding


def test_missing_of_the_first_list_may_come_by_the_watch() -> None:
    """F17: then nothing is in doubt."""
    mirror = Mirror(SERVICES, GUARD, [name(number) for number in range(FIELD)])
    mirror.listed(listing())

    events = mirror.changed(Batch({name(number): item(number) for number in range(FIELD)}))

    assert isinstance(events[-1], Removed)
    assert not mirror.is_holding


def test_own_node_may_go() -> None:
    """F17, R104: one of one is no mass deletion, and Nodes are not guarded."""
    guard = MassDeleteGuard(minimum=0)
    mirror = Mirror(own_node("a"), guard)
    mirror.listed(listing(0))

    assert shown(mirror.listed(listing())) == set()


def test_events_without_news_are_not_passed_on(mirror: Mirror) -> None:
    """F10: the same object again, and the deletion of what is not there."""
    assert mirror.changed(Batch({name(0): item(0), name(99): None})) == []


def test_broken_object_keeps_its_last_state(mirror: Mirror) -> None:
    """F33: by watch and by list, until it is deleted."""
    problem = Problem("Service default/s0", "spec: expected object", True)

    [changed] = mirror.changed(Batch(broken={name(0): problem}))
    relisted = mirror.listed(Listing({name(1): item(1)}, {name(0): problem}, "1"))
    [gone] = mirror.changed(Batch({name(0): None}))

    assert changed == Changed(SERVICES.source, (), (), (problem,))
    assert "s0" in shown(relisted)
    assert isinstance(gone, Changed)
    assert gone.deleted == (name(0),)


NUMBERS = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.sets(NUMBERS),
        st.dictionaries(NUMBERS, st.sampled_from([None, "10.96.0.1", "10.96.0.2"])),
    ),
    max_size=8,
)


@given(STEPS)
def test_any_events_end_in_what_they_say(steps: list[set[int] | dict[int, str | None]]) -> None:
    """F10, R7: the receiver has exactly the objects of the server, and is never told nothing."""
    mirror = Mirror(SERVICES, MassDeleteGuard(hold_s=0))
    mirror.listed(listing())
    truth: dict[ObjectName, ApiObject] = {}
    seen: dict[ObjectName, ApiObject] = {}
    for step in steps:
        if isinstance(step, set):
            truth = {name(n): item(n) for n in step}
            events = mirror.listed(Listing(truth, {}, "1"))
        else:
            objects = {name(n): item(n, ip) if ip else None for n, ip in step.items()}
            for key, found in objects.items():
                truth.pop(key, None)
                if found is not None:
                    truth[key] = found
            events = mirror.changed(Batch(objects))
        for event in events:
            if isinstance(event, Loaded):
                seen = {ObjectName("Service", *_key(found)): found for found in event.objects}
            elif isinstance(event, Changed):
                assert event.objects or event.deleted
                for key in event.deleted:
                    del seen[key]
                seen |= {ObjectName("Service", *_key(found)): found for found in event.objects}
        assert seen == truth


def _key(found: ApiObject) -> tuple[str, str]:
    return found.metadata.namespace, found.metadata.name
