# SPDX-License-Identifier: Apache-2.0
"""What the API server would have refused is refused by field: R1, R63, R116."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.services import service
from vipbee.address import format_address
from vipbee.core.service_spec import check_spec, counts

TWO = [{"name": "a", "port": 1}, {"name": "b", "port": 2}]

INVALID: list[tuple[dict[str, Any], str]] = [
    ({"ports": [{"port": 65536}]}, "spec.ports[0].port 65536 is not in 1..65535"),
    ({"ports": [{"port": 0}]}, "spec.ports[0].port 0 is not in 1..65535"),
    ({"ports": [*TWO, {"name": "c", "port": -1}]}, "spec.ports[2].port -1 is not in 1..65535"),
    (
        {"ports": [{"port": 1, "nodePort": 65536}]},
        "spec.ports[0].nodePort 65536 is not in 1..65535",
    ),
    (
        {"ports": [{"port": 1, "protocol": "tcp"}]},
        "spec.ports[0].protocol 'tcp' is not TCP, UDP or SCTP",
    ),
    (
        {"ports": [{"port": 1, "name": "n" * 64}]},
        f"spec.ports[0].name '{'n' * 64}' is not 1 to 63 printable ASCII characters",
    ),
    ({"ports": []}, "spec.ports is empty"),
    ({"ports": None}, "spec.ports is empty"),
    (
        {"ports": [{"port": 80}, {"port": 443}]},
        "spec.ports[1].name '' (TCP) is also that of spec.ports[0]",
    ),
    (
        {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
        "spec.ports[1].port 80 (TCP) is also that of spec.ports[0]",
    ),
    (
        {
            "ports": [
                {"name": "a", "port": 80, "nodePort": 30000},
                {"name": "b", "port": 81, "nodePort": 30000},
            ]
        },
        "spec.ports[1].nodePort 30000 (TCP) is also that of spec.ports[0]",
    ),
    ({"clusterIP": "10.96.0.300"}, "spec.clusterIP '10.96.0.300' is not an IP address"),
    ({"clusterIP": "１０.96.0.1"}, "spec.clusterIP '１０.96.0.1' is not an IP address"),
    ({"clusterIP": "none"}, "spec.clusterIP 'none' is not an IP address"),
    ({"clusterIP": ""}, "spec.clusterIP is empty: give the Service an address, or None"),
    (
        {"clusterIP": "127.0.0.1"},
        "spec.clusterIP 127.0.0.1 is a loopback address and can never be a VIP",
    ),
    (
        {"clusterIPs": ["10.96.0.10", "fe80::1"]},
        "spec.clusterIPs[1] fe80::1 is a link-local address and can never be a VIP",
    ),
    (
        {"clusterIPs": ["10.96.0.10", "10.96.0.11"]},
        "spec.clusterIPs[1] 10.96.0.11 is the second address of its family",
    ),
    (
        {"clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv6"]},
        "spec.clusterIPs[0] 10.96.0.10 is not 'IPv6', as spec.ipFamilies says",
    ),
    (
        {"clusterIPs": ["10.96.0.11"]},
        "spec.clusterIP '10.96.0.10' and spec.clusterIPs[0] differ",
    ),
    ({"type": "clusterip"}, "spec.type 'clusterip' is not ClusterIP, NodePort or LoadBalancer"),
    (
        {"internalTrafficPolicy": "local"},
        "spec.internalTrafficPolicy 'local' is not Cluster or Local",
    ),
    (
        {"externalTrafficPolicy": "Node"},
        "spec.externalTrafficPolicy 'Node' is not Cluster or Local",
    ),
    (
        {"sessionAffinity": "clientIP"},
        "spec.sessionAffinity 'clientIP' is not None or ClientIP",
    ),
    *(
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout_s}},
            },
            f"spec.sessionAffinityConfig.clientIP.timeoutSeconds {timeout_s} is not in 1..86400",
        )
        for timeout_s in (0, 86401, -1)
    ),
    (
        {"namespace": "a/b"},
        "metadata.namespace 'a/b' is not 1 to 63 printable ASCII characters without '/'",
    ),
    (
        {"name": "n" * 64},
        f"metadata.name '{'n' * 64}' is not 1 to 63 printable ASCII characters without '/'",
    ),
    ({"name": ""}, "metadata.name '' is not 1 to 63 printable ASCII characters without '/'"),
]


@pytest.mark.parametrize(("fields", "message"), INVALID, ids=[m for _, m in INVALID])
def test_field_is_named_with_its_value_and_the_reason(fields: dict[str, Any], message: str) -> None:
    _, wrong = check_spec(service(**fields))

    assert wrong == [message]


def test_messages_carry_no_control_characters_to_the_terminal() -> None:
    """F32: what a Service says is shown by `vipbee status`."""
    evil = "\x1b[31m\u202e"
    _, wrong = check_spec(
        service(
            type=evil,
            clusterIPs=["10.96.0.10"],
            ipFamilies=[evil],
            internalTrafficPolicy=evil,
            externalTrafficPolicy=evil,
            sessionAffinity=evil,
            ports=[{"port": 80, "protocol": evil, "name": evil}],
        )
    )

    assert len(wrong) == 7
    assert all(message.isprintable() for message in wrong)


def test_every_wrong_field_is_named() -> None:
    _, wrong = check_spec(service(type="x", ports=[{"port": 0, "protocol": "x"}]))

    assert len(wrong) == 3


@pytest.mark.parametrize(
    "ports",
    [
        [{"port": 1}, {"port": 65535, "name": "last"}],
        [{"name": "dns", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        [
            {"name": "a", "port": 53, "nodePort": 30053},
            {"name": "b", "port": 53, "nodePort": 30053, "protocol": "UDP"},
        ],
        [{"name": "a", "port": 1, "nodePort": 0}, {"name": "b", "port": 2, "nodePort": 0}],
    ],
)
def test_protocols_have_their_own_numbers(ports: list[dict[str, Any]]) -> None:
    """R10, R78, R93"""
    spec, wrong = check_spec(service(ports=ports))

    assert wrong == []
    assert len(spec.ports) == 2


@pytest.mark.parametrize(
    ("fields", "is_served"),
    [
        ({}, True),
        ({"clusterIP": "None"}, False),
        ({"type": "ExternalName"}, False),  # R1: even with a clusterIP
        ({"type": "ExternalName", "clusterIP": ""}, False),
    ],
)
def test_headless_services_and_external_names_do_not_count(
    fields: dict[str, Any], is_served: bool
) -> None:
    """F28, R1"""
    assert counts(service(**fields)) is is_served


DUAL = ["10.96.0.10", "fd00::10"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [(4, "10.96.0.10")]),
        ({"clusterIP": "fd00::10"}, [(6, "fd00::10")]),
        ({"clusterIP": "fd00::10", "ipFamilies": ["IPv6"]}, [(6, "fd00::10")]),
        (
            {"clusterIPs": DUAL, "ipFamilies": ["IPv4", "IPv6"]},
            [(4, "10.96.0.10"), (6, "fd00::10")],
        ),
        (
            {
                "clusterIP": "fd00::10",
                "clusterIPs": DUAL[::-1],
                "ipFamilies": ["IPv6", "IPv4"],
            },
            [(6, "fd00::10"), (4, "10.96.0.10")],
        ),
        ({"clusterIPs": DUAL, "ipFamilies": ["IPv4"]}, [(4, "10.96.0.10")]),
        ({"clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4", "IPv6"]}, [(4, "10.96.0.10")]),
        ({"clusterIPs": DUAL}, [(4, "10.96.0.10"), (6, "fd00::10")]),
        ({"clusterIP": "10.96.00.010", "clusterIPs": ["10.96.0.10"]}, [(4, "10.96.0.10")]),
    ],
)
def test_cluster_ip_of_each_family(fields: dict[str, Any], expected: list[tuple[int, str]]) -> None:
    """F25, R25, R116"""
    spec, wrong = check_spec(service(**fields))

    assert wrong == []
    assert [(family, format_address(address)) for family, address in spec.cluster_ips] == expected


@pytest.mark.parametrize(
    ("fields", "timeout_s"),
    [
        ({}, 0),
        ({"sessionAffinity": "None"}, 0),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}}, 10800),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}},
            },
            86400,
        ),
        (
            {
                "sessionAffinity": "None",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            },
            0,
        ),
    ],
)
def test_affinity_timeout(fields: dict[str, Any], timeout_s: int) -> None:
    """R61, R63, R65"""
    spec, wrong = check_spec(service(**fields))

    assert wrong == []
    assert spec.affinity_timeout_s == timeout_s
