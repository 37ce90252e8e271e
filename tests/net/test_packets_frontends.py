# SPDX-License-Identifier: Apache-2.0
"""Clients that no socket hook sees, through every kind of frontend, on real networks.

The packet layer alone carries what happens here: the client outside is not in any
node's cgroup, nor are sandboxed pods.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.packet_lab import (
    Answer,
    ask,
    ask_until,
    balancer_ip,
    cluster_ip,
    external_ip,
    node_port,
    packet_lab,
)
from tests.support.web import Curl, curl, url
from vipbee.lab import Lab

FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", ["TCP", "UDP"])
BOTH = {"near-0", "far-0"}

Target = Callable[[Lab, str, int], tuple[str, int]]
KINDS: dict[str, Target] = {
    "LoadBalancer": lambda lab, service, family: (balancer_ip(service, family), 7000),
    "externalIP": lambda lab, service, family: (external_ip(service, family), 7000),
    "NodePort": lambda lab, service, family: (
        lab.node("node-1").address(family),
        node_port(service, "echo"),
    ),
}


@pytest.fixture(scope="module", params=["routed", "bridged", "vxlan"])
def lab(request: pytest.FixtureRequest, lab_name: str) -> Iterator[Lab]:
    with packet_lab(request.param, lab_name) as lab:
        yield lab


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("kind", KINDS)
def test_policy_cluster_serves_from_all_nodes_and_keeps_the_client_where_it_can(
    lab: Lab, kind: str, protocol: str, family: int
) -> None:
    """R48, R76, R86, R89: a local backend sees the client, a remote one an address of the node."""
    address, port = KINDS[kind](lab, "cluster", family)

    answers = ask_until(lab.client, protocol, address, port, BOTH)

    clients = {answer.server: answer.client for answer in answers}
    assert clients.keys() == BOTH
    assert clients["near-0"] == lab.client.address(family)
    assert clients["far-0"] in addresses_of(lab, "node-1", family)


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("kind", KINDS)
def test_policy_local_serves_from_this_node_only_with_the_clients_address(
    lab: Lab, kind: str, protocol: str, family: int
) -> None:
    """R44, R45."""
    address, port = KINDS[kind](lab, "local", family)

    answers = {ask(lab.client, protocol, address, port) for _ in range(12)}

    assert answers == {Answer("near-0", lab.client.address(family))}


@FAMILIES
@PROTOCOLS
def test_policy_local_without_local_endpoint_is_silence(
    lab: Lab, protocol: str, family: int
) -> None:
    """R44: the load balancer's health check sends the traffic elsewhere."""
    before = reasons(lab)["no_local_endpoint"]

    with pytest.raises(TimeoutError):
        ask(lab.client, protocol, balancer_ip("lone", family), 7000, timeout_s=0.3)

    assert reasons(lab)["no_local_endpoint"] > before


@FAMILIES
@PROTOCOLS
def test_every_node_serves_a_vip(lab: Lab, protocol: str, family: int) -> None:
    """Also one without a pod; and the one where policy Local has its endpoint."""
    for node in ("node-2", "node-3"):
        lab.route_vips(node)
        try:
            answers = ask_until(lab.client, protocol, balancer_ip("cluster", family), 7000, BOTH)
            assert {answer.server for answer in answers} == BOTH
            if node == "node-2":
                answer = ask(lab.client, protocol, balancer_ip("lone", family), 7000)
                assert answer == Answer("lone-0", lab.client.address(family))
        finally:
            lab.route_vips("node-1")


@FAMILIES
@pytest.mark.parametrize("service", ["cluster", "local"])
def test_curl_and_dig_from_outside(lab: Lab, service: str, family: int) -> None:
    for address, port, dns in (
        (balancer_ip(service, family), 80, 53),
        (external_ip(service, family), 80, 53),
        (
            lab.node("node-1").address(family),
            node_port(service, "http"),
            node_port(service, "dns"),
        ),
    ):
        page = curl(lab.client, url(address, port))
        assert page.returncode == Curl.OK, page.stderr
        assert page.stdout.strip() in BOTH
        for option in ("+notcp", "+tcp"):
            command = ["dig", f"@{address}", f"-p{dns}", "+short", "+tries=1", "+time=3", option]
            answer = lab.client.run([*command, "TXT", "whoami.lab"])
            assert answer.stdout.strip().strip('"') in BOTH, answer.stdout


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("pod", ["sealed-1", "sealed-3"])
def test_a_pod_that_no_hook_sees_reaches_cluster_ips_with_its_own_address(
    lab: Lab, pod: str, protocol: str, family: int
) -> None:
    """R55; D135: VMs, Kata, gVisor. On the backend's node, and on one without a backend."""
    place = lab.pod(pod)

    answers = ask_until(place, protocol, cluster_ip("cluster", family), 7000, BOTH)

    assert answers == {Answer(server, place.address(family)) for server in BOTH}


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_that_no_hook_sees_reaches_the_other_frontends_despite_policy_local(
    lab: Lab, kind: str, protocol: str, family: int
) -> None:
    """R50: a client in the cluster is short-circuited to all endpoints."""
    address, port = KINDS[kind](lab, "local", family)

    answers = ask_until(lab.pod("sealed-1"), protocol, address, port, BOTH)

    assert {answer.server for answer in answers} == BOTH


@FAMILIES
@PROTOCOLS
def test_a_pod_reaches_itself_through_its_service(lab: Lab, protocol: str, family: int) -> None:
    """R59, hairpin: it sees its own node, never its own address."""
    place = lab.pod("sealed-web")

    answer = ask(place, protocol, cluster_ip("sealed", family), 7000)

    assert answer.server == "sealed-web"
    assert answer.client in addresses_of(lab, "node-1", family)


@FAMILIES
@PROTOCOLS
def test_a_service_without_endpoints_refuses(lab: Lab, protocol: str, family: int) -> None:
    """R35: a RST or port unreachable, not silence."""
    for place, address in (
        (lab.client, balancer_ip("empty", family)),
        (lab.client, external_ip("empty", family)),
        (lab.pod("sealed-1"), cluster_ip("empty", family)),
    ):
        with pytest.raises(ConnectionRefusedError):
            ask(place, protocol, address, 7000)


@FAMILIES
@PROTOCOLS
def test_an_unknown_port_of_a_cluster_ip_refuses(lab: Lab, protocol: str, family: int) -> None:
    """R37."""
    with pytest.raises(ConnectionRefusedError):
        ask(lab.pod("sealed-1"), protocol, cluster_ip("cluster", family), 7999)


@FAMILIES
def test_cluster_ips_are_not_served_to_clients_outside(lab: Lab, family: int) -> None:
    """R42."""
    address = cluster_ip("cluster", family)
    route = ["ip", f"-{family}", "route", "replace", f"{address}/{32 if family == 4 else 128}"]
    lab.client.run([*route, "via", lab.node("node-1").address(family)], check=True)

    with pytest.raises(TimeoutError):
        ask(lab.client, "TCP", address, 7000, timeout_s=0.3)

    assert reasons(lab)["cluster_ip_outside"] > 0


@PROTOCOLS
def test_source_ranges_admit_and_exclude(lab: Lab, protocol: str) -> None:
    """R80-R82: LB VIPs only, pods too, and a family without a range is open."""
    outside, pod = lab.client, lab.pod("sealed-1")

    assert ask(outside, protocol, balancer_ip("ranged", 4), 7000).server in BOTH
    assert ask(pod, protocol, balancer_ip("ranged", 6), 7000).server in BOTH
    assert ask(pod, protocol, external_ip("ranged", 4), 7000).server in BOTH
    with pytest.raises(TimeoutError):
        ask(pod, protocol, balancer_ip("ranged", 4), 7000, timeout_s=0.3)
    assert reasons(lab)["source_range"] > 0


def addresses_of(lab: Lab, node: str, family: int) -> set[str]:
    """Every global address of a node."""
    output = lab.node(node).run(["ip", "-o", f"-{family}", "addr", "show", "scope", "global"])
    return {line.split()[3].partition("/")[0] for line in output.stdout.splitlines()}


def reasons(lab: Lab, node: str = "node-1") -> dict[str, int]:
    status = lab.agent(node).vipbee(["status", "-o", "json"])
    found: dict[str, int] = json.loads(status.stdout)["reasons"]
    return found
