# SPDX-License-Identifier: Apache-2.0
"""Joining and merging of endpoints: R11–R13, R17–R25. Who serves: test_endpoint_sets.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.endpoint_tables import C, L, N, R, S, T, hosts, places, port, sets, table
from tests.support.services import endpoint, endpoint_slice
from vipbee.abi import BackendFlag

# ---- joining


@pytest.mark.parametrize(
    ("slice_port", "name", "protocol", "is_joined"),
    [
        ({"name": "http", "port": 1}, "http", "TCP", True),
        ({"name": "http", "port": 1, "protocol": "UDP"}, "http", "TCP", False),
        ({"name": "http", "port": 1, "protocol": "UDP"}, "http", "UDP", True),
        ({"name": "web", "port": 1}, "http", "TCP", False),
        ({"name": "", "port": 1}, "", "TCP", True),
        ({"name": "", "port": 1}, "http", "TCP", False),
        ({"name": "http", "port": 1}, "", "TCP", False),
        ({"port": 1}, "", "TCP", True),  # nil name is "" once the API server has seen it
    ],
)
def test_slice_port_joins_by_name_and_protocol(
    slice_port: dict[str, Any], name: str, protocol: str, is_joined: bool
) -> None:
    """F24, R11, R12"""
    found = port(endpoint_slice("10.0.0.1", ports=[slice_port]), name=name, protocol=protocol)

    assert places(found) == (["10.0.0.1:1"] if is_joined else [])


@pytest.mark.parametrize("number", [None, 0, 65536, -1])
def test_port_without_usable_number_leaves_its_siblings_alone(number: int | None) -> None:
    """F24, R12"""
    odd = endpoint_slice(
        "10.0.0.1", ports=[{"name": "a", "port": number}, {"name": "b", "port": 2}]
    )

    assert places(port(odd, name="a")) == []
    assert places(port(odd, name="b")) == ["10.0.0.1:2"]


@pytest.mark.parametrize(
    ("slice_port", "message"),
    [
        ({"port": 65536}, "ports[0].port 65536 is not in 1..65535: the port is ignored"),
        (
            {"port": 1, "protocol": "tcp"},
            "ports[0].protocol 'tcp' is not TCP, UDP or SCTP: the port is ignored",
        ),
    ],
)
def test_invalid_slice_port_is_reported(slice_port: dict[str, Any], message: str) -> None:
    read = table(endpoint_slice("10.0.0.1", ports=[slice_port]))

    assert [(p.object, p.message) for p in read.problems] == [
        ("EndpointSlice default/web-1", message)
    ]


def test_one_name_may_stand_for_different_numbers() -> None:
    """F24, R13: also for one address."""
    found = port(
        endpoint_slice("10.0.0.1", "10.0.0.2", name="s1", ports=[{"name": "", "port": 81}]),
        endpoint_slice("10.0.0.1", name="s2", ports=[{"name": "", "port": 80}]),
    )

    assert places(found) == ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:81"]
    assert found.endpoints == 3


# ---- merging


def test_duplicate_gets_no_larger_share() -> None:
    """F20, F29, R17"""
    found = port(
        endpoint_slice("10.0.0.1", "10.0.0.2", name="s1"),
        endpoint_slice("10.0.0.2", "10.0.0.3", name="s2"),
    )

    assert places(found) == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    assert found.endpoints == 3


READY = endpoint("10.0.0.1")
READY_LOCAL = endpoint("10.0.0.1", node="n1")
SERVING = endpoint("10.0.0.1", ready=False)
NOT_SERVING = endpoint("10.0.0.1", ready=False, serving=False)
TERMINATING = endpoint("10.0.0.1", ready=False, serving=True, terminating=True, node="n1")
READY_GOING_LOCAL = endpoint("10.0.0.1", ready=True, terminating=True, node="n1")


@pytest.mark.parametrize(
    ("one", "other", "flags"),
    [
        (READY, READY_LOCAL, R | S | C | L | N),
        (READY, SERVING, R | S | C),
        (READY, TERMINATING, R | S | C),
        (READY_LOCAL, NOT_SERVING, R | S | C | L | N),
        (SERVING, NOT_SERVING, S),
        (SERVING, TERMINATING, S),  # non-terminating wins, and is not usable
        (NOT_SERVING, TERMINATING, None),
        (TERMINATING, TERMINATING, S | T | C | L | N),
        (READY, READY_GOING_LOCAL, R | S | C | L | N),
        (SERVING, READY_GOING_LOCAL, S),
    ],
)
def test_two_entries_for_one_place_are_resolved_whatever_their_order(
    one: dict[str, Any], other: dict[str, Any], flags: BackendFlag | None
) -> None:
    """F20, F21, R18, R21"""
    for first, second in ((one, other), (other, one)):
        found = port(endpoint_slice(first, name="s1"), endpoint_slice(second, name="s2"))

        assert [b.flags for b in found.backends] == ([] if flags is None else [flags])
        assert found.endpoints == 1


def test_only_the_first_address_is_used() -> None:
    """R19"""
    several = endpoint("10.0.0.1") | {"addresses": ["10.0.0.1", "10.0.0.2"]}

    assert places(port(endpoint_slice(several))) == ["10.0.0.1:8080"]


def test_families_have_their_own_slices() -> None:
    """F25, R20, R117"""
    slices = (
        endpoint_slice("10.0.0.1", name="s4"),
        endpoint_slice("2001:db8::1", name="s6", family="IPv6"),
        endpoint_slice("example.com", name="fqdn", family="FQDN"),
        endpoint_slice("10.0.0.2", name="odd", family="ipv4"),
    )

    assert places(table(*slices).port("", "TCP")) == ["10.0.0.1:8080"]
    assert places(table(*slices, family=6).port("", "TCP")) == ["[2001:db8::1]:8080"]
    assert table(*slices).problems == table(*slices, family=6).problems == []


def test_local_means_the_very_node_name() -> None:
    """R24"""
    members = [
        endpoint("10.0.0.1", node="n1"),
        endpoint("10.0.0.2", node="n1.example.com"),
        endpoint("10.0.0.3", node="N1"),
        endpoint("10.0.0.4"),
    ]

    assert sets(*members) == ("1 2 3 4", "1")


def test_legacy_leading_zeros_are_decimal() -> None:
    """R25: and so equal to the usual spelling."""
    found = port(endpoint_slice("10.180.00.001", "10.180.0.1"))

    assert places(found) == ["10.180.0.1:8080"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address: no Service may send traffic there"),
        ("169.254.169.254", "169.254.169.254 is the cloud metadata address:"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address:"),
        ("224.0.0.1", "224.0.0.1 is a multicast address:"),
        ("10.0.0.256", "'10.0.0.256' is not an IP address: the endpoint is ignored"),
        ("١٠.0.0.1", "is not an IP address"),
        ("2001:db8::1", "2001:db8::1 is not IPv4, the slice's addressType"),
        ("::ffff:10.0.0.1", "is an IPv4-mapped IPv6 address"),
    ],
)
def test_endpoint_with_an_impossible_address_is_left_out_and_named(
    address: str, reason: str
) -> None:
    read = table(endpoint_slice("10.0.0.1", address))

    assert places(read.port("", "TCP")) == ["10.0.0.1:8080"]
    [problem] = read.problems
    assert problem.object == "EndpointSlice default/web-1"
    assert problem.message.startswith("endpoints[1].addresses[0] ")
    assert reason in problem.message
    assert not problem.is_error


@pytest.mark.parametrize(
    "address", ["::1", "fe80::1", "ff02::1", "::", "fd00:ec2::254", "::ffff:10.0.0.1", "10.0.0.1"]
)
def test_endpoint_with_an_impossible_ipv6_address_is_left_out(address: str) -> None:
    read = table(endpoint_slice("2001:db8::1", address, family="IPv6"), family=6)

    assert places(read.port("", "TCP")) == ["[2001:db8::1]:8080"]
    assert len(read.problems) == 1


def test_denied_endpoint_counts_but_decides_nothing() -> None:
    """A denied Ready endpoint must not keep the terminating ones out (R28) nor hints away (R71)."""
    fallback = endpoint("10.0.0.1", ready=False, terminating=True)

    found = port(endpoint_slice(fallback, "127.0.0.1"))

    assert hosts(found, BackendFlag.IN_CLUSTER) == "1"
    assert found.endpoints == 2
