# SPDX-License-Identifier: Apache-2.0
"""Rows of `service list`, for programs and for people."""

from __future__ import annotations

import pytest

from vipbee.cli.service import _rows, _rows_for_a_person, parse_wanted
from vipbee.errors import UsageError
from vipbee.observe.services import Wanted
from vipbee.observe.view import BackendView, Connections, FrontendView, ServiceView


def backend(number: int, state: str = "active", *, node_local: bool = False) -> BackendView:
    return BackendView(
        address=f"10.244.1.{number}",
        port=8080,
        protocol="TCP",
        state=state,
        selected=state == "active",
        node_local=node_local,
        opened=0,
        active=0,
    )


def frontend(address: str, kind: str, policy: str = "Cluster") -> FrontendView:
    return FrontendView(
        address=address,
        port=80,
        protocol="TCP",
        type=kind,
        policy=policy,
        node_addresses=["172.30.0.1"] if address == "*" else [],
        backends=2,
    )


def view(*backends: BackendView) -> ServiceView:
    return ServiceView(
        namespace="default",
        name="web",
        port_name="http",
        port=80,
        protocol="TCP",
        family="IPv4",
        type="NodePort",
        affinity_timeout_seconds=600,
        endpoints=3,
        connections=Connections(opened=9, active=4, refused=1, unreachable=2, affinity_hits=0),
        frontends=[frontend("10.96.0.10", "ClusterIP"), frontend("*", "NodePort")],
        backends=list(backends),
    )


def test_row_for_a_program_is_complete_and_has_no_spaces() -> None:
    rows = _rows(view(backend(1), backend(2, "terminating"), backend(3, "not selected")))

    backends = "10.244.1.1:8080,10.244.1.2:8080(terminating),10.244.1.3:8080(not-selected)"
    shared = ("600s", backends, "4", "9", "3", "3")
    assert rows == [
        ("default/web", "http:80", "10.96.0.10:80/TCP", "ClusterIP", "Cluster", *shared, "-"),
        ("default/web", "http:80", "*:80/TCP", "NodePort", "Cluster", *shared, "172.30.0.1"),
    ]
    assert not any(" " in cell for row in rows for cell in row)


def test_rows_for_a_person_say_once_what_frontends_share() -> None:
    first, second = _rows_for_a_person(view(*map(backend, range(1, 7))), 4)

    assert first[6].splitlines() == [
        *(f"10.244.1.{n}:8080" for n in range(1, 5)),
        "+2 more",
    ]
    assert second == ("", "", "*:80/TCP", "NodePort", "Cluster", *[""] * 6, "172.30.0.1")


def test_policy_local_tells_which_backends_are_elsewhere() -> None:
    """R43, R46: otherwise the list shows backends that nobody it is for can reach."""
    service = view(backend(1, node_local=True), backend(2), backend(3, "terminating"))
    service.frontends = [
        frontend("10.96.0.10", "ClusterIP"),
        frontend("*", "NodePort", policy="Local"),
    ]

    cluster, local = _rows(service)
    shared, _ = _rows_for_a_person(service, None)

    backends = "10.244.1.1:8080,10.244.1.2:8080{},10.244.1.3:8080(terminating)"
    assert (cluster[6], local[6]) == (backends.format(""), backends.format("(other-node)"))
    assert shared[6].splitlines()[:2] == ["10.244.1.1:8080", "10.244.1.2:8080 (other node)"]


def test_service_without_backend_says_none() -> None:
    assert _rows(view())[0][6] == "none"


@pytest.mark.parametrize(
    ("which", "namespace", "wanted"),
    [
        (None, None, Wanted()),
        (None, "a", Wanted("a")),
        ("web", None, Wanted(None, "web")),
        ("web", "a", Wanted("a", "web")),
        ("a/web", None, Wanted("a", "web")),
        ("a/web", "a", Wanted("a", "web")),
    ],
)
def test_filter(which: str | None, namespace: str | None, wanted: Wanted) -> None:
    assert parse_wanted(which, namespace) == wanted


@pytest.mark.parametrize("which", ["", "/web", "a/", "a/b/c"])
def test_what_is_no_service_name_is_refused(which: str) -> None:
    with pytest.raises(UsageError, match="not NAMESPACE/NAME"):
        parse_wanted(which, None)
