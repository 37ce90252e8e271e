# SPDX-License-Identifier: Apache-2.0
"""Which frontends a Service has on this node and which policy governs each.

R1, R10, R14–R16, R41, R43–R46, R54, R76–R79, R86–R89, R92, R116–R119, R127, R131.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.services import endpoint_slice, service
from vipbee.abi import BackendFlag, FrontendKind
from vipbee.address import format_endpoint, parse_address
from vipbee.core.nodes import NodeView
from vipbee.core.select import Selection, select
from vipbee.model import EndpointSlice, Problem, ProblemReason, Service, ServicePort

NODE_IP, OTHER_NODE_IP = "192.0.2.1", "192.0.2.2"
NODE = NodeView(
    name="n1",
    own_addresses=(parse_address(NODE_IP),),
    other_addresses=(parse_address(OTHER_NODE_IP),),
)
DUAL: dict[str, Any] = {
    "clusterIPs": ["10.96.0.10", "fd00::10"],
    "ipFamilies": ["IPv4", "IPv6"],
}


def chosen(item: Service, *slices: EndpointSlice) -> Selection:
    return select(item, slices, NODE)


def texts(port: ServicePort) -> list[str]:
    """Frontends as `ClusterIP 10.96.0.10:80/6` with ` Local` where that policy applies."""
    found = []
    for (address, number, protocol), kind, is_local in port.frontends:
        text = f"{FrontendKind(kind).label} {format_endpoint(address, number)}/{protocol}"
        found.append(f"{text} Local" if is_local else text)
    return found


def frontends(item: Service) -> list[str]:
    return [text for port in chosen(item).ports for text in texts(port)]


def warnings(item: Service) -> list[str]:
    found = chosen(item)
    assert found.ports
    assert {(p.object, p.is_error) for p in found.problems} <= {("Service default/web", False)}
    return [p.message for p in found.problems]


def test_service_port_is_complete() -> None:
    """R10"""
    item = service(
        created="2024-01-01T00:00:00Z",
        type="NodePort",
        sessionAffinity="ClientIP",
        ports=[{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}],
    )
    found = chosen(
        item,
        endpoint_slice("10.0.0.1", ports=[{"name": "dns", "port": 5353, "protocol": "UDP"}]),
    )

    [port] = found.ports
    assert found.problems == ()
    assert port.key == ("default", "web", "dns", 17, 4)
    assert (port.service_type, port.port, port.created) == ("NodePort", 53, "2024-01-01T00:00:00Z")
    assert (port.affinity_timeout_s, port.endpoints) == (10800, 1)
    assert texts(port) == ["ClusterIP 10.96.0.10:53/17", "NodePort 0.0.0.0:30053/17"]
    [backend] = port.backends
    assert format_endpoint(backend.address, backend.port) == "10.0.0.1:5353"
    assert backend.flags == BackendFlag.READY | BackendFlag.SERVING | BackendFlag.IN_CLUSTER


@pytest.mark.parametrize("fields", [{"clusterIP": "None"}, {"type": "ExternalName"}])
def test_service_without_cluster_ip_is_ignored_without_a_word(fields: dict[str, Any]) -> None:
    """R1, also with everything else set; R131: and so a type change withdraws it."""
    item = service(externalIPs=["203.0.113.1"], ports=[{"port": 80, "nodePort": 30000}], **fields)

    assert chosen(item, endpoint_slice("10.0.0.1")) == Selection((), ())


def test_service_without_endpoints_has_its_frontends_all_the_same() -> None:
    """R35"""
    [port] = chosen(service()).ports

    assert texts(port) == ["ClusterIP 10.96.0.10:80/6"]
    assert (port.backends, port.endpoints) == ((), 0)


# ---- kinds and policies

EVERYTHING: dict[str, Any] = {
    "type": "LoadBalancer",
    "externalIPs": ["203.0.113.1"],
    "ingress": [{"ip": "203.0.113.2"}],
    "ports": [{"port": 80, "nodePort": 30080}],
}


@pytest.mark.parametrize("internal", ["", " Local"])
@pytest.mark.parametrize("external", ["", " Local"])
def test_destination_decides_which_policy_applies(internal: str, external: str) -> None:
    """R43, R45, R46: all four combinations."""
    item = service(
        **EVERYTHING,
        internalTrafficPolicy=internal.strip() or None,
        externalTrafficPolicy=external.strip() or "Cluster",
    )

    assert frontends(item) == [
        f"ClusterIP 10.96.0.10:80/6{internal}",
        f"LoadBalancer 203.0.113.2:80/6{external}",
        f"ExternalIP 203.0.113.1:80/6{external}",
        f"NodePort 0.0.0.0:30080/6{external}",
    ]


def test_external_policy_of_a_plain_cluster_ip_means_nothing() -> None:
    """R46: without externalIPs; with them it governs them, and still not the ClusterIP."""
    plain = service(externalTrafficPolicy="Local")
    with_external = service(externalTrafficPolicy="Local", externalIPs=["203.0.113.1"])

    assert frontends(plain) == ["ClusterIP 10.96.0.10:80/6"]
    assert frontends(with_external) == [
        "ClusterIP 10.96.0.10:80/6",
        "ExternalIP 203.0.113.1:80/6 Local",
    ]


@pytest.mark.parametrize(
    ("ingress", "expected"),
    [
        ([{"ip": "203.0.113.2"}], ["LoadBalancer 203.0.113.2:80/6"]),
        ([{"ip": "203.0.113.2", "ipMode": "VIP"}], ["LoadBalancer 203.0.113.2:80/6"]),
        ([{"ip": "203.0.113.2", "ipMode": "Proxy"}], []),
        ([{"hostname": "lb.example.com"}], []),
        ([{"ip": "2001:db8::2"}], []),
        (
            [{"ip": "203.0.113.2"}, {"ip": "203.0.113.3"}],
            ["LoadBalancer 203.0.113.2:80/6", "LoadBalancer 203.0.113.3:80/6"],
        ),
    ],
)
def test_load_balancer_addresses(ingress: list[dict[str, str]], expected: list[str]) -> None:
    """R76, R77, R118"""
    item = service(type="LoadBalancer", ingress=ingress)

    assert frontends(item) == ["ClusterIP 10.96.0.10:80/6", *expected]
    assert warnings(item) == []


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
def test_status_left_over_from_a_load_balancer_is_not_served(kind: str) -> None:
    """R131"""
    assert frontends(service(type=kind, ingress=[{"ip": "203.0.113.2"}])) == [
        "ClusterIP 10.96.0.10:80/6"
    ]


def test_load_balancer_without_ingress_or_node_port_is_a_cluster_ip() -> None:
    """R78"""
    assert frontends(service(type="LoadBalancer", ports=[{"port": 80, "nodePort": 0}])) == [
        "ClusterIP 10.96.0.10:80/6"
    ]


def test_node_port_of_a_cluster_ip_service_is_ignored_and_named() -> None:
    """R131"""
    item = service(ports=[{"port": 80, "nodePort": 30080}])

    assert frontends(item) == ["ClusterIP 10.96.0.10:80/6"]
    assert warnings(item) == ["spec.ports[0].nodePort 30080 is ignored: spec.type is ClusterIP"]


def test_every_external_ip_serves_every_port() -> None:
    """R86"""
    item = service(
        externalIPs=["203.0.113.1", "203.0.113.2"],
        ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81, "protocol": "UDP"}],
    )

    assert frontends(item) == [
        "ClusterIP 10.96.0.10:80/6",
        "ExternalIP 203.0.113.1:80/6",
        "ExternalIP 203.0.113.2:80/6",
        "ClusterIP 10.96.0.10:81/17",
        "ExternalIP 203.0.113.1:81/17",
        "ExternalIP 203.0.113.2:81/17",
    ]


def test_an_address_with_several_roles_has_the_most_specific() -> None:
    """R92"""
    item = service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        externalIPs=["203.0.113.2", "10.96.0.10", "203.0.113.02"],
        ingress=[{"ip": "203.0.113.2"}],
    )

    assert frontends(item) == [
        "ClusterIP 10.96.0.10:80/6",
        "LoadBalancer 203.0.113.2:80/6 Local",
    ]


# ---- families


def test_families_have_their_own_frontends_and_backends() -> None:
    """R116–R118"""
    item = service(
        **DUAL,
        type="LoadBalancer",
        externalIPs=["203.0.113.1", "2001:db8::1"],
        ports=[{"port": 80, "nodePort": 30080}],
    )
    v4, v6 = chosen(item, endpoint_slice("10.0.0.1")).ports

    assert texts(v4) == [
        "ClusterIP 10.96.0.10:80/6",
        "ExternalIP 203.0.113.1:80/6",
        "NodePort 0.0.0.0:30080/6",
    ]
    assert texts(v6) == [
        "ClusterIP [fd00::10]:80/6",
        "ExternalIP [2001:db8::1]:80/6",
        "NodePort [::]:30080/6",
    ]
    assert (v4.key.family, len(v4.backends)) == (4, 1)
    assert (v6.key.family, len(v6.backends)) == (6, 0)


def test_family_without_cluster_ip_does_not_exist() -> None:
    """F25, R116, R119: neither its external addresses nor its NodePorts."""
    item = service(
        type="NodePort", externalIPs=["2001:db8::1"], ports=[{"port": 80, "nodePort": 30080}]
    )

    assert frontends(item) == ["ClusterIP 10.96.0.10:80/6", "NodePort 0.0.0.0:30080/6"]
    assert warnings(item) == []


# ---- what is not served


def test_sctp_port_is_skipped_and_named_and_its_siblings_serve() -> None:
    """R14, R16"""
    item = service(
        ports=[
            {"name": "a", "port": 80, "protocol": "SCTP"},
            {"name": "b", "port": 80},
        ]
    )

    assert frontends(item) == ["ClusterIP 10.96.0.10:80/6"]
    assert warnings(item) == [
        "spec.ports[0].protocol SCTP is not supported: the port is skipped,"
        " TCP and UDP ports are served"
    ]


def test_invalid_service_is_skipped_whole_and_every_reason_named() -> None:
    item = service(type="NodePort", ports=[{"name": "a", "port": 80}, {"name": "b", "port": 65536}])

    found = chosen(item, endpoint_slice("10.0.0.1"))

    assert found.ports == ()
    assert found.problems == (
        Problem(
            "Service default/web",
            "spec.ports[1].port 65536 is not in 1..65535",
            is_error=True,
            reason=ProblemReason.SERVICE_REFUSED,
        ),
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address and can never be a VIP: it is ignored"),
        ("169.254.169.254", "169.254.169.254 is the cloud metadata address and can never be a VIP"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address and can never be a VIP"),
        ("224.0.0.1", "224.0.0.1 is a multicast address and can never be a VIP"),
        ("fe80::1", "fe80::1 is a link-local address and can never be a VIP"),
        ("203.0.113.256", "'203.0.113.256' is not an IP address: it is ignored"),
    ],
)
def test_impossible_external_address_is_left_out_and_the_rest_serves(
    address: str, message: str
) -> None:
    """security.md §4.5, item 4"""
    external = service(**DUAL, externalIPs=[address])
    balanced = service(**DUAL, type="LoadBalancer", ingress=[{"ip": address}])

    for item, field in (
        (external, "spec.externalIPs[0]"),
        (balanced, "status.loadBalancer.ingress[0].ip"),
    ):
        assert frontends(item) == ["ClusterIP 10.96.0.10:80/6", "ClusterIP [fd00::10]:80/6"]
        [warning] = warnings(item)
        assert warning.startswith(f"{field} {message}")


def test_source_ranges_are_said_not_to_be_enforced() -> None:
    """R80 is for a later issue; only where it would apply (R81)."""
    ranges = {"loadBalancerSourceRanges": ["10.0.0.0/8"]}

    told = warnings(service(type="LoadBalancer", ingress=[{"ip": "203.0.113.2"}], **ranges))

    assert len(told) == 1
    assert told[0].startswith("spec.loadBalancerSourceRanges is not enforced while")
    assert warnings(service(type="LoadBalancer", **ranges)) == []


@pytest.mark.parametrize("address", [NODE_IP, OTHER_NODE_IP])
def test_node_address_is_never_a_cluster_ip(address: str) -> None:
    """security.md §4.5, item 5: R37 would refuse every other port of the node."""
    found = chosen(service(clusterIP=address))

    assert found.ports == ()
    assert [p.is_error for p in found.problems] == [True]


def test_node_address_may_be_an_external_address_but_not_on_the_daemons_ports() -> None:
    """security.md §4.5, item 5; R92: the exact frontend beats NodePorts."""
    item = service(
        externalIPs=[NODE_IP, "203.0.113.1"],
        ports=[{"name": "web", "port": 80}, {"name": "kubelet", "port": 10250}],
    )

    assert frontends(item) == [
        "ClusterIP 10.96.0.10:80/6",
        f"ExternalIP {NODE_IP}:80/6",
        "ExternalIP 203.0.113.1:80/6",
        "ClusterIP 10.96.0.10:10250/6",
        "ExternalIP 203.0.113.1:10250/6",
    ]
    [warning] = warnings(item)
    assert warning.startswith(f"spec.externalIPs[0] {NODE_IP} is an address of a node")


def test_problem_of_a_slice_is_told_once_for_all_ports() -> None:
    item = service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}])
    found = chosen(item, endpoint_slice("127.0.0.1", ports=[{"name": "a", "port": 1}]))

    assert len(found.ports) == 2
    assert [p.object for p in found.problems] == ["EndpointSlice default/web-1"]


# ---- properties

TEXTS = st.sampled_from(
    ["", "None", "10.96.0.1", "fd00::1", "127.0.0.1", "::1", "x", NODE_IP, "203.0.113.1", "٣", "\0"]
)
WORDS = st.sampled_from(["", "Local", "Cluster", "None", "ClientIP", "x", "Ω" * 40])
NUMBERS = st.sampled_from([-1, 0, 1, 80, 10250, 65535, 65536, 2**40])


@given(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["web", "", "a/b", "x" * 64]),
            "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "x"]),
            "clusterIP": TEXTS,
            "clusterIPs": st.none() | st.lists(TEXTS, max_size=3),
            "ipFamilies": st.none() | st.lists(st.sampled_from(["IPv4", "IPv6", "x"]), max_size=3),
            "externalIPs": st.lists(TEXTS, max_size=3),
            "internalTrafficPolicy": st.none() | WORDS,
            "externalTrafficPolicy": st.none() | WORDS,
            "sessionAffinity": WORDS,
            "ingress": st.lists(st.fixed_dictionaries({"ip": TEXTS}), max_size=2),
            "ports": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": WORDS,
                        "port": NUMBERS,
                        "nodePort": NUMBERS,
                        "protocol": st.sampled_from(["TCP", "UDP", "SCTP", "tcp"]),
                    }
                ),
                max_size=3,
            ),
        }
    )
)
def test_no_service_makes_select_fail_and_every_refusal_is_told(fields: dict[str, Any]) -> None:
    item = service(**fields)
    found = chosen(item, endpoint_slice("10.0.0.1"))

    assert all(problem.message for problem in found.problems)
    if any(problem.is_error for problem in found.problems):
        assert found.ports == ()
    for port in found.ports:
        keys = [frontend.key for frontend in port.frontends]
        assert len(keys) == len(set(keys)) > 0
        assert all(0 < key.port <= 65535 and len(key.address) == 16 for key in keys)


def test_nodeport_outside_the_range_is_served_at_sockets_only() -> None:
    """R93: the range is the API server's; packets to other ports are never looked up."""
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 8080}]}
    with_packets = dataclasses.replace(NODE, packet_lb=True)
    item = service(**spec)

    served = select(item, (), with_packets)

    assert any("NodePort" in text for text in texts(served.ports[0]))
    assert [problem.message for problem in served.problems] == [
        "spec.ports[0].nodePort 8080 is outside nodeport-range 30000-32767: programs of this node"
        " reach it, clients outside do not"
    ]
    assert select(item, (), NODE).problems == ()
