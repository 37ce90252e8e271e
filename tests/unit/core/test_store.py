# SPDX-License-Identifier: Apache-2.0
"""Which objects count and whose they are: R2–R7, R22, R23, R126."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.services import endpoint_slice, node, service
from vipbee.core.store import HEADLESS_LABEL, PROXY_NAME_LABEL, Changes, Store
from vipbee.model import ApiObject, Service, ServiceName

WEB = ServiceName("default", "web")
DNS = ServiceName("default", "dns")
NONE = Changes()


def filled(*objects: ApiObject) -> Store:
    store = Store()
    store.replace("a", objects)
    return store


def test_slices_may_precede_their_service() -> None:
    """F18, R7"""
    store = Store()

    early = store.upsert("a", endpoint_slice("10.0.0.1"))
    late = store.upsert("a", service())

    assert early == late == Changes({WEB})
    assert store.service(WEB) == service()
    assert store.slices(WEB) == (endpoint_slice("10.0.0.1"),)


def test_service_of_another_proxy_does_not_exist() -> None:
    """F28, R2: whatever the label's value; adding it is a delete, removing it an add."""
    store = filled(service())

    added = store.upsert("a", service(labels={PROXY_NAME_LABEL: ""}))
    hidden = store.service(WEB), store.names()
    removed = store.upsert("a", service())

    assert hidden == (None, [])
    assert added == removed == Changes({WEB})
    assert store.names() == [WEB]


def test_change_of_a_service_of_another_proxy_concerns_nobody() -> None:
    """R2"""
    store = filled(service(labels={PROXY_NAME_LABEL: "x"}))

    changes = store.upsert("a", service(labels={PROXY_NAME_LABEL: "y"}))

    assert not changes


def test_slice_with_the_headless_label_is_left_out_while_it_has_it() -> None:
    """F28, R3"""
    plain, headless = endpoint_slice("10.0.0.1"), endpoint_slice(labels={HEADLESS_LABEL: ""})
    store = filled(plain)

    added = store.upsert("a", headless)
    without = store.slices(WEB)
    removed = store.upsert("a", plain)

    assert without == ()
    assert added == removed == Changes({WEB})
    assert store.slices(WEB) == (plain,)


def test_proxy_name_label_of_a_slice_means_nothing() -> None:
    """R4"""
    labelled = endpoint_slice("10.0.0.1", labels={PROXY_NAME_LABEL: "x"})

    assert filled(labelled).slices(WEB) == (labelled,)


@pytest.mark.parametrize("owner", [None, ""])
def test_slice_without_service_name_is_ignored(owner: str | None) -> None:
    """R5"""
    store = Store()

    assert store.upsert("a", endpoint_slice(service=owner)) == NONE


def test_slice_belongs_to_a_service_of_its_own_namespace() -> None:
    """R5"""
    store = filled(endpoint_slice("10.0.0.1", namespace="other"))

    assert store.slices(WEB) == ()
    assert len(store.slices(ServiceName("other", "web"))) == 1


def test_relabelled_slice_moves_and_both_services_are_dirty() -> None:
    """R6"""
    moved = endpoint_slice("10.0.0.1", service="dns")
    store = filled(endpoint_slice("10.0.0.1"))

    changes = store.upsert("a", moved)

    assert changes == Changes({WEB, DNS})
    assert store.slices(WEB) == ()
    assert store.slices(DNS) == (moved,)


def test_slices_come_in_the_order_of_their_names() -> None:
    store = filled(*(endpoint_slice(name=name) for name in ("web-2", "web-10", "web-1")))

    assert [s.metadata.name for s in store.slices(WEB)] == ["web-1", "web-10", "web-2"]


def test_deleting_a_slice_leaves_the_others() -> None:
    """F29, R22"""
    store = filled(endpoint_slice(name="web-1"), endpoint_slice(name="web-2"))

    changes = store.delete("a", "EndpointSlice", "default", "web-1")

    assert changes == Changes({WEB})
    assert store.slices(WEB) == (endpoint_slice(name="web-2"),)


def test_deleting_what_is_not_there_changes_nothing() -> None:
    store = filled(service())

    assert store.delete("a", "Service", "default", "dns") == NONE
    assert store.delete("b", "Service", "default", "web") == NONE
    assert store.delete("a", "EndpointSlice", "default", "web") == NONE
    assert store.delete("a", "Node", "", "web") == NONE


def test_replace_is_the_difference_to_the_last_list() -> None:
    """R23, R126"""
    same, gone = service("same"), service("gone")
    store = filled(same, gone, service("changed"))

    changes = store.replace("a", [service("same"), service("changed", type="NodePort"), service()])

    names = {ServiceName("default", name) for name in ("gone", "changed", "web")}
    assert changes == Changes(names)
    assert (
        store.replace("a", [service("same"), service("changed", type="NodePort"), service()])
        == NONE
    )


def test_node_changes_are_told_apart() -> None:
    """R75"""
    store = filled(node("n1", zone="a"))

    assert store.upsert("a", node("n1", zone="a")) == NONE
    assert store.upsert("a", node("n1", zone="b")) == Changes(node=True)
    assert store.delete("a", "Node", "anything", "n1") == Changes(node=True)
    assert store.nodes() == []


def test_source_that_sorts_first_wins_and_the_other_is_reported() -> None:
    first, second = service(clusterIP="10.96.0.1"), service(clusterIP="10.96.0.2")
    store = Store()

    store.upsert("b", second)
    taken_over = store.upsert("a", first)
    ignored = store.upsert("b", service(clusterIP="10.96.0.3"))

    assert taken_over == Changes({WEB})
    assert ignored == NONE
    assert store.service(WEB) == first
    [problem] = store.problems()
    assert problem.object == "Service default/web"
    assert problem.message == "is taken from a; also in b: keep one"


def test_next_source_takes_over_when_the_first_lets_go() -> None:
    store = Store()
    store.upsert("a", service(clusterIP="10.96.0.1"))
    store.upsert("b", service(clusterIP="10.96.0.2"))

    changes = store.replace("a", [])

    assert changes == Changes({WEB})
    assert store.service(WEB) == service(clusterIP="10.96.0.2")
    assert store.problems() == []


def test_first_of_two_in_one_list_counts_and_the_other_is_reported() -> None:
    store = filled(service(clusterIP="10.96.0.1"), service(clusterIP="10.96.0.2"))

    assert store.service(WEB) == service(clusterIP="10.96.0.1")
    assert [p.message for p in store.problems()] == ["stands twice in a, the first counts"]
    store.replace("a", [service()])
    assert store.problems() == []


OBJECTS: list[ApiObject] = [
    *(
        service(name, labels=labels)
        for name in ("web", "dns")
        for labels in (None, {PROXY_NAME_LABEL: ""})
    ),
    service(type="NodePort"),
    *(
        endpoint_slice("10.0.0.1", name=name, service=owner, labels=labels)
        for name in ("s1", "s2")
        for owner in ("web", "dns", None)
        for labels in (None, {HEADLESS_LABEL: ""})
    ),
    node("n1"),
    node("n1", zone="a"),
]
EVENTS = st.tuples(st.sampled_from("abc"), st.sampled_from(OBJECTS), st.booleans())


def identity(source: str, item: ApiObject) -> tuple[str, str, str]:
    return source, type(item).__name__, item.metadata.name


def apply(store: Store, source: str, item: ApiObject, is_delete: bool) -> Changes:
    if not is_delete:
        return store.upsert(source, item)
    return store.delete(source, type(item).__name__, item.metadata.namespace, item.metadata.name)


def content(store: Store) -> tuple[object, ...]:
    slices = {name: store.slices(name) for name in (WEB, DNS)}
    services: dict[ServiceName, Service | None] = {name: store.service(name) for name in (WEB, DNS)}
    return store.names(), services, slices, store.nodes(), store.problems()


@given(st.lists(EVENTS, max_size=30), st.randoms(use_true_random=False))
def test_any_history_ends_in_the_state_of_a_fresh_list(events: list, random: object) -> None:
    """R7, R21, R126: the last event of each object counts, in any order, any number of times."""
    store = Store()
    last = {}
    for source, item, is_delete in events:
        apply(store, source, item, is_delete)
        last[identity(source, item)] = (source, item, is_delete)
    final = list(last.values())
    random.shuffle(final)

    again = Store()
    for event in final * 2:
        apply(again, *event)
    fresh = Store()
    for source in "cab":
        fresh.replace(
            source, [item for s, item, is_delete in final if s == source and not is_delete]
        )

    assert content(store) == content(again) == content(fresh)


@given(st.lists(EVENTS, max_size=30))
def test_what_is_not_named_dirty_did_not_change(events: list) -> None:
    store = Store()
    for event in events:
        before = {name: (store.service(name), store.slices(name)) for name in (WEB, DNS)}
        nodes = store.nodes()

        changes = apply(store, *event)

        for name, old in before.items():
            if name not in changes.services:
                assert (store.service(name), store.slices(name)) == old
        if not changes.node:
            assert store.nodes() == nodes
