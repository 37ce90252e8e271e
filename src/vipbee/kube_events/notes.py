# SPDX-License-Identifier: Apache-2.0
"""A problem → what is said about which object, and the Event that says it. Pure.

What concerns one node (a full map, a port that is taken) is told by that node. What every
node sees alike (two Services claim an address) is one Event for the whole cluster: its name
is made from what it says, so the second node to create it finds that it exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from vipbee.model import Problem, ProblemReason

CONTROLLER = "vipbee"
API_VERSION = "events.k8s.io/v1"
_API_VERSIONS = {"Service": "v1", "Node": "v1", "EndpointSlice": "discovery.k8s.io/v1"}
_MAX_NOTE_BYTES = 1000  # the API allows 1,024
_MAX_NAME = 230  # of 253, the rest is ours
_OF_ONE_NODE = frozenset((ProblemReason.MAP_FULL, ProblemReason.HEALTH_CHECK_FAILED))
_ACTIONS = {ProblemReason.HEALTH_CHECK_FAILED: "Listen"}  # kube-proxy's word

FindUid = Callable[[str, str, str], str]
"""kind, namespace, name → uid, "" if unknown."""


class Note(NamedTuple):
    """`kind`, `namespace` ("" for a Node) and `name` are the object it is about."""

    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    text: str
    node: str  # "": all nodes say the same

    @property
    def event_namespace(self) -> str:
        """Events about Nodes stand in `default`."""
        return self.namespace or "default"

    @property
    def event_name(self) -> str:
        said = "\0".join((self.kind, self.namespace, self.name, self.reason, self.text, self.node))
        return f"{self.name[:_MAX_NAME]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def notes(problems: Iterable[Problem], node_name: str, find_uid: FindUid) -> set[Note]:
    """What is worth an Event; problems without an object of the API are told of the node."""
    found = set()
    for problem in problems:
        if not problem.reason:
            continue
        kind, namespace, name = _object(problem.object, node_name)
        text = problem.message
        node = node_name if problem.reason in _OF_ONE_NODE else ""
        if node:
            text = f"node {node_name}: {text}"
        text = text.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore")
        uid = find_uid(kind, namespace, name)
        found.add(Note(kind, namespace, name, uid, problem.reason, text, node))
    return found


def event(note: Note, *, node_name: str, unix_s: float) -> dict[str, Any]:
    """The object to create."""
    regarding = {
        "apiVersion": _API_VERSIONS[note.kind],
        "kind": note.kind,
        "namespace": note.namespace,
        "name": note.name,
        "uid": note.uid,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "Event",
        "metadata": {"namespace": note.event_namespace, "name": note.event_name},
        "eventTime": _micro_time(unix_s),
        "reportingController": CONTROLLER,
        "reportingInstance": f"{CONTROLLER}-{node_name}"[:128],
        "action": _ACTIONS.get(ProblemReason(note.reason), "Program"),
        "reason": note.reason,
        "regarding": {field: value for field, value in regarding.items() if value},
        "note": note.text,
        "type": "Warning",
    }


def series(count: int, unix_s: float) -> dict[str, Any]:
    """The patch that says it has been so `count` times by now (at least 2)."""
    return {"series": {"count": max(count, 2), "lastObservedTime": _micro_time(unix_s)}}


def path(note: Note, *, is_new: bool) -> str:
    """Where to POST it, or to PATCH it."""
    base = f"/apis/{API_VERSION}/namespaces/{note.event_namespace}/events"
    return base if is_new else f"{base}/{note.event_name}"


def _object(text: str, node_name: str) -> tuple[str, str, str]:
    kind, _, rest = text.partition(" ")
    namespace, slash, name = rest.partition("/")
    if kind in _API_VERSIONS and slash:
        return kind, namespace, name
    return "Node", "", node_name


def _micro_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
