# SPDX-License-Identifier: Apache-2.0
"""`vipbee conntrack list`, `nat list` and `affinity list` on a node with traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.packet_lab import ask, ask_until, balancer_ip, cluster_ip, packet_lab
from vipbee.lab import Lab

BOTH = {"near-0", "far-0"}


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name) as lab:
        for service in lab.services:
            if service["metadata"]["name"] == "lone":
                service["spec"]["sessionAffinity"] = "ClientIP"
        lab.publish()
        for protocol in ("TCP", "UDP"):
            ask_until(lab.client, protocol, balancer_ip("cluster", 4), 7000, BOTH)
            ask(lab.pod("sealed-1"), protocol, cluster_ip("cluster", 6), 7000)
        lab.route_vips("node-2")
        ask(lab.client, "TCP", balancer_ip("local", 4), 7000)
        yield lab


def listed(lab: Lab, *command: str, node: str = "node-1") -> list[dict[str, Any]]:
    done = lab.agent(node).vipbee([*command, "-o", "json"])
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_connections_have_names_states_and_a_remaining_life(lab: Lab) -> None:
    found = listed(lab, "conntrack", "list", "default/cluster", "--zone", "outside")

    assert {row["protocol"] for row in found} == {"TCP", "UDP"}
    assert {row["frontend"] for row in found} == {f"{balancer_ip('cluster', 4)}:7000"}
    backends = {f"{lab.pod(pod).ipv4}:7000" for pod in BOTH}
    assert {row["backend"] for row in found} == backends
    for row in found:
        assert (row["namespace"], row["name"]) == ("default", "cluster")
        assert row["portName"] == ("echo" if row["protocol"] == "TCP" else "echo-udp")
        assert row["state"] == ("closing" if row["protocol"] == "TCP" else "udp")
        lifetime = 240 if row["protocol"] == "TCP" else 120
        assert 0 <= row["ageSeconds"] + row["remainingSeconds"] - lifetime <= 1
        is_local = row["backend"].startswith(lab.pod("near-0").ipv4)
        assert row["isRedirected"] is not is_local
        seen_as = lab.client.ipv4 if is_local else lab.node("node-1").ipv4
        assert row["source"].startswith(f"{seen_as}:")


@pytest.mark.parametrize(
    ("filters", "zones", "services"),
    [
        (("--zone", "pod"), {"pod"}, {"cluster"}),
        (("--client", "fd00::/16"), {"pod"}, {"cluster"}),
        (("--client", "172.30.0.200"), {"outside"}, {"cluster"}),
        (("--state", "udp", "--zone", "outside"), {"outside"}, {"cluster"}),
        (("default/local",), set(), set()),  # that one went through node-2
        (("--namespace", "other"), set(), set()),
    ],
)
def test_filters(lab: Lab, filters: tuple[str, ...], zones: set[str], services: set[str]) -> None:
    found = listed(lab, "conntrack", "list", *filters)

    assert {row["zone"] for row in found} == zones
    assert {row["name"] for row in found} == services


@pytest.mark.parametrize("what", ["conntrack", "nat", "affinity"])
def test_a_service_that_is_not_there_is_told(lab: Lab, what: str) -> None:
    """An empty list would say that it has no connections."""
    done = lab.agent("node-1").vipbee([what, "list", "default/clutser"])

    assert done.returncode == 1
    assert done.stderr == "vipbee: Service default/clutser is not programmed\n"


def test_every_connection_has_its_reverse_half(lab: Lab) -> None:
    connections = listed(lab, "conntrack", "list")

    halves = listed(lab, "nat", "list")

    assert {(row["original"], row["reply"]) for row in halves} == {
        (f"{row['client']} → {row['frontend']}", f"{row['backend']} → {row['source']}")
        for row in connections
    }


def test_affinity_names_the_client_and_its_backend(lab: Lab) -> None:
    ask(lab.client, "TCP", balancer_ip("lone", 4), 7000)

    found = listed(lab, "affinity", "list", node="node-2")

    [row] = [row for row in found if row["portName"] == "echo"]
    assert (row["client"], row["name"]) == (lab.client.ipv4, "lone")
    assert row["backend"] == f"{lab.pod('lone-0').ipv4}:7000"
    assert 10_790 <= row["idleSeconds"] + row["remainingSeconds"] <= 10_800


@pytest.mark.parametrize(
    ("option", "message"),
    [(("--client", "here"), "--client wants"), (("--state", "open"), "--state wants one of")],
)
def test_a_wrong_filter_is_refused_by_name(lab: Lab, option: tuple[str, ...], message: str) -> None:
    done = lab.agent("node-1").vipbee(["conntrack", "list", *option])

    assert done.returncode == 2
    assert message in done.stderr
