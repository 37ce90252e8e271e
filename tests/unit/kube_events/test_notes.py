# SPDX-License-Identifier: Apache-2.0
"""What is said in an Event about which object."""

from __future__ import annotations

from vipbee.kube_events.notes import event, notes, path, series
from vipbee.model import Problem, ProblemReason

CONFLICT = Problem(
    "Service default/web", "ClusterIP 10.96.0.1 belongs to …", True, ProblemReason.FRONTEND_CONFLICT
)
TAKEN = Problem("Service default/web", "port taken", False, ProblemReason.HEALTH_CHECK_FAILED)
FULL = Problem("Node addresses", "map addresses is full", True, ProblemReason.MAP_FULL)


def uid(kind: str, namespace: str, name: str) -> str:
    return f"uid of {kind} {namespace}/{name}"


def test_problems_without_a_reason_are_no_events() -> None:
    plain = Problem("Service default/web", "SCTP is skipped", is_error=False)

    assert notes([plain], "node-a", uid) == set()


def test_event_is_about_the_service() -> None:
    (note,) = notes([CONFLICT], "node-a", uid)

    made = event(note, node_name="node-a", unix_s=1_700_000_000.25)

    assert made["metadata"]["namespace"] == "default"
    assert made["metadata"]["name"].startswith("web.")
    assert made["eventTime"] == "2023-11-14T22:13:20.250000Z"
    assert made["reportingController"] == "vipbee"
    assert made["reportingInstance"] == "vipbee-node-a"
    assert (made["reason"], made["type"]) == ("FrontendConflict", "Warning")
    assert made["note"] == "ClusterIP 10.96.0.1 belongs to …"
    assert made["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "default",
        "name": "web",
        "uid": "uid of Service default/web",
    }


def test_health_check_is_kube_proxys_event() -> None:
    """R100: its reason and its action."""
    (note,) = notes([TAKEN], "node-a", uid)

    made = event(note, node_name="node-a", unix_s=0.0)

    assert (made["reason"], made["action"]) == ("FailedToStartServiceHealthcheck", "Listen")
    assert made["note"] == "node node-a: port taken"


def test_what_every_node_sees_has_one_name_and_what_one_sees_its_own() -> None:
    """A thousand nodes write one Event about two Services that claim one address."""
    conflicts = [notes([CONFLICT], node, uid).pop() for node in ("node-a", "node-b")]
    taken = [notes([TAKEN], node, uid).pop() for node in ("node-a", "node-b")]

    assert conflicts[0].event_name == conflicts[1].event_name
    assert taken[0].event_name != taken[1].event_name


def test_what_has_no_object_of_its_own_is_told_of_the_node() -> None:
    """Events about Nodes stand in namespace default."""
    (note,) = notes([FULL], "node-a", uid)

    made = event(note, node_name="node-a", unix_s=0.0)

    assert made["regarding"]["kind"] == "Node"
    assert "namespace" not in made["regarding"]
    assert path(note, is_new=True) == "/apis/events.k8s.io/v1/namespaces/default/events"


def test_unknown_uid_is_left_out() -> None:
    (note,) = notes([CONFLICT], "node-a", lambda *_: "")

    assert "uid" not in event(note, node_name="node-a", unix_s=0.0)["regarding"]


def test_long_names_and_messages_fit() -> None:
    long = Problem(f"Service default/{'a' * 253}", "é" * 2000, True, ProblemReason.MAP_FULL)

    (note,) = notes([long], "n" * 253, uid)
    made = event(note, node_name="n" * 253, unix_s=0.0)

    assert len(made["note"].encode()) <= 1024
    assert len(made["metadata"]["name"]) <= 253
    assert len(made["reportingInstance"]) <= 128


def test_series_counts_from_two() -> None:
    """The API refuses a series of one."""
    assert series(1, 0.0)["series"]["count"] == 2
    assert series(5, 0.0)["series"]["lastObservedTime"] == "1970-01-01T00:00:00.000000Z"
