# SPDX-License-Identifier: Apache-2.0
"""Health as kube-proxy means it (R102-R105, R109), and ready only once programmed."""

from __future__ import annotations

import json

import msgspec
import pytest

from vipbee.model import Node
from vipbee.observe.health import PENDING_LIMIT_S, Answer, Health

NOW = 1_700_000_000.0


def node(**fields: object) -> Node:
    metadata = {"name": "node-a", "deletionTimestamp": fields.pop("deleted", None)}
    return msgspec.convert({"metadata": metadata, "spec": fields}, Node)


@pytest.fixture
def ready() -> Health:
    health = Health()
    health.synced(NOW)
    return health


def body(answer: Answer) -> dict[str, object]:
    document: dict[str, object] = json.loads(answer.body)
    return document


def test_not_ready_before_the_first_complete_programming() -> None:
    """interface.md §2: /healthz answers 200 only after it; a starting proxy is alive (R103)."""
    health = Health()
    health.queued(NOW)

    assert health.healthz(NOW + 1).status == 503
    assert health.livez(NOW + 1).status == 200
    assert body(health.healthz(NOW + 1))["lastUpdated"] == "0001-01-01T00:00:00Z"


def test_ready_after_the_first_complete_programming(ready: Health) -> None:
    assert ready.healthz(NOW).status == 200
    assert ready.livez(NOW).status == 200


def test_idle_proxy_stays_healthy_for_days(ready: Health) -> None:
    """R103: nothing pending is nothing wrong."""
    assert ready.healthz(NOW + 1e6).status == 200


def test_update_pending_for_too_long_is_unhealthy_until_it_succeeds(ready: Health) -> None:
    """R103. A second update does not restart the clock of the first."""
    ready.queued(NOW)
    ready.queued(NOW + PENDING_LIMIT_S - 1)

    assert ready.healthz(NOW + PENDING_LIMIT_S - 0.1).status == 200
    assert ready.healthz(NOW + PENDING_LIMIT_S).status == 503
    assert ready.livez(NOW + PENDING_LIMIT_S).status == 503

    ready.synced(NOW + PENDING_LIMIT_S + 1)

    assert ready.healthz(NOW + PENDING_LIMIT_S + 1).status == 200


@pytest.mark.parametrize(
    "leaving",
    [
        node(deleted="2026-01-01T00:00:00Z"),
        node(taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]),
        node(taints=[{"key": "x"}, {"key": "ToBeDeletedByClusterAutoscaler", "value": "1"}]),
    ],
)
def test_leaving_node_is_not_eligible_but_alive(ready: Health, leaving: Node) -> None:
    """R104, and it recovers when the taint goes."""
    ready.set_node(leaving)

    assert ready.healthz(NOW).status == 503
    assert body(ready.healthz(NOW))["nodeEligible"] is False
    assert body(ready.healthz(NOW))["healthy"] is True
    assert ready.livez(NOW).status == 200

    ready.set_node(node())

    assert ready.healthz(NOW).status == 200


@pytest.mark.parametrize(
    "staying", [node(unschedulable=True), node(taints=[{"key": "node.kubernetes.io/not-ready"}])]
)
def test_other_taints_and_unschedulable_do_not_matter(ready: Health, staying: Node) -> None:
    """R104."""
    ready.set_node(staying)

    assert ready.healthz(NOW).status == 200


def test_node_never_seen_is_eligible_and_one_that_went_away_is_not(ready: Health) -> None:
    """R104; without Kubernetes there is no Node object, and nothing wrong with that."""
    ready.set_node(None)
    assert ready.healthz(NOW).status == 200

    ready.set_node(node())
    ready.set_node(None)
    assert ready.healthz(NOW).status == 503


def test_bodies_are_kube_proxys(ready: Health) -> None:
    """R105: lastUpdated is the current time whenever the answer is 200."""
    family = {"lastUpdated": "2023-11-14T22:13:21Z", "healthy": True}
    live = {
        "lastUpdated": "2023-11-14T22:13:21Z",
        "currentTime": "2023-11-14T22:13:21Z",
        "healthy": True,
        "status": {"IPv4": family, "IPv6": family},
    }

    assert body(ready.livez(NOW + 1)) == live
    assert body(ready.healthz(NOW + 1)) == live | {"nodeEligible": True}


def test_answers_are_counted_by_code(ready: Health) -> None:
    """R109."""
    ready.healthz(NOW)
    ready.healthz(NOW)
    ready.set_node(node(deleted="2026-01-01T00:00:00Z"))
    ready.healthz(NOW)
    ready.livez(NOW)

    assert ready.answers == {("healthz", 200): 2, ("healthz", 503): 1, ("livez", 200): 1}


def test_node_that_was_never_seen_is_eligible_only_where_there_are_no_nodes() -> None:
    """R104: not eligible with an API server, as kube-proxy 1.36; a state file needs no Nodes."""
    for needs_node, expected in ((True, 503), (False, 200)):
        health = Health(needs_node=needs_node)
        health.synced(NOW)
        health.set_node(None)

        assert health.healthz(NOW).status == expected
        assert health.livez(NOW).status == 200

        health.set_node(node())

        assert health.healthz(NOW).status == 200
