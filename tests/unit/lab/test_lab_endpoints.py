# SPDX-License-Identifier: Apache-2.0
"""The lab's endpoint controller writes what the real one would."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vipbee.lab.blueprint import draw_blueprint
from vipbee.lab.endpoints import EndpointState, dns_records, families, render_state
from vipbee.lab.topology import parse_topology
from vipbee.model import EndpointSlice, Node, Service

TOPOLOGY = parse_topology("""
nodes:
  - name: node-1
    zone: a
    pods: [{name: web-0, app: web}, {name: db-0, app: db}]
  - name: node-2
    pods: [{name: web-1, app: web}]
services:
  - metadata: {name: web}
    spec:
      clusterIPs: [10.96.0.10, "fd00:10:96::10"]
      selector: {app: web}
      ports: [{name: http, port: 80, targetPort: 8080}]
  - metadata: {name: manual, namespace: other}
    spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
""")


def render(**states: EndpointState) -> dict[str, Any]:
    named = {name.replace("_", "-"): state for name, state in states.items()}
    return render_state(draw_blueprint(TOPOLOGY), TOPOLOGY.services, named)


def addresses(state: dict[str, Any]) -> dict[str, list[str]]:
    return {
        slice_["metadata"]["name"]: [end["addresses"][0] for end in slice_["endpoints"]]
        for slice_ in state["endpoints"]
    }


def test_pods_of_the_selected_app_are_endpoints_in_each_family() -> None:
    assert addresses(render()) == {
        "web-ipv4": ["10.244.1.2", "10.244.2.2"],
        "web-ipv6": ["fd00:10:244:1::2", "fd00:10:244:2::2"],
    }


def test_target_port_is_resolved_and_the_protocol_named() -> None:
    assert render()["endpoints"][0]["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


def test_endpoints_know_their_node_and_zone() -> None:
    first, second = render()["endpoints"][0]["endpoints"]

    assert (first["nodeName"], first["zone"], second["nodeName"]) == ("node-1", "a", "node-2")
    assert "zone" not in second


def test_services_have_both_forms_of_their_cluster_ips() -> None:
    web, manual = (service["spec"] for service in render()["services"])

    assert (web["clusterIP"], web["ipFamilies"]) == ("10.96.0.10", ["IPv4", "IPv6"])
    assert (manual["clusterIPs"], manual["ipFamilies"]) == (["10.96.0.11"], ["IPv4"])


def test_absent_pods_leave_the_slices() -> None:
    state = render(web_0=EndpointState(present=False))

    assert addresses(state)["web-ipv4"] == ["10.244.2.2"]


def test_conditions_are_written_as_set() -> None:
    state = render(web_0=EndpointState(ready=False, serving=True, terminating=True))

    conditions = state["endpoints"][0]["endpoints"][0]["conditions"]
    assert conditions == {"ready": False, "serving": True, "terminating": True}


def test_what_is_rendered_are_the_objects_the_agent_reads() -> None:
    state = render()

    assert len(msgspec.convert(state["services"], list[Service])) == 2
    assert len(msgspec.convert(state["endpoints"], list[EndpointSlice])) == 2
    assert [node.metadata.name for node in msgspec.convert(state["nodes"], list[Node])] == [
        "node-1",
        "node-2",
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"clusterIP": "10.96.0.1"}, [4]),
        ({"clusterIP": "fd00::1"}, [6]),
        ({"clusterIPs": ["fd00::1", "10.96.0.1"]}, [6, 4]),
        ({"clusterIP": "None"}, [4]),
        ({"clusterIP": "None", "ipFamilies": ["IPv6", "IPv4"]}, [6, 4]),
    ],
)
def test_families_of_a_service(spec: dict[str, Any], expected: list[int]) -> None:
    assert families(spec) == expected


def test_dns_names_lead_to_cluster_ips() -> None:
    assert dns_records(TOPOLOGY.services) == {
        "web.default.svc.cluster.local": ("10.96.0.10", "fd00:10:96::10"),
        "manual.other.svc.cluster.local": ("10.96.0.11",),
    }
