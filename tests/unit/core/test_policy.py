# SPDX-License-Identifier: Apache-2.0
"""Hard denials of security.md §4.5, items 4 and 5 and "Backends"."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipbee.address import parse_address
from vipbee.core.policy import refused_backend, refused_on_node, refused_vip

DENIED = [
    ("0.0.0.0", "the unspecified address"),
    ("0.1.2.3", "an address of this network (0.0.0.0/8)"),
    ("127.0.0.1", "a loopback address"),
    ("127.255.255.255", "a loopback address"),
    ("169.254.169.254", "the cloud metadata address"),
    ("169.254.0.1", "a link-local address"),
    ("168.63.129.16", "the cloud metadata address of Azure"),
    ("100.100.100.200", "the cloud metadata address of Alibaba"),
    ("224.0.0.1", "a multicast address"),
    ("239.255.255.255", "a multicast address"),
    ("240.0.0.1", "a reserved address (240.0.0.0/4)"),
    ("255.255.255.255", "the broadcast address"),
    ("::", "the unspecified address"),
    ("::1", "a loopback address"),
    ("fe80::1", "a link-local address"),
    ("febf:ffff::1", "a link-local address"),
    ("ff02::1", "a multicast address"),
    ("fd00:ec2::254", "the cloud metadata address of AWS"),
]

ALLOWED = [
    "1.0.0.0",
    "10.96.0.10",
    "126.255.255.255",
    "128.0.0.1",
    "100.64.0.1",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.16.0.1",
    "192.168.0.1",
    "223.255.255.255",
    "::2",
    "64:ff9b::1",
    "2001:db8::1",
    "fd00:ec2::253",
    "fd00::10",
    "fec0::1",
    "fe7f::1",
]


@pytest.mark.parametrize(("text", "what"), DENIED)
def test_address_is_neither_vip_nor_backend(text: str, what: str) -> None:
    address = parse_address(text)

    assert refused_vip(address) == what
    assert refused_backend(address) == what


@pytest.mark.parametrize("text", ALLOWED)
def test_address_may_be_vip_and_backend(text: str) -> None:
    address = parse_address(text)

    assert refused_vip(address) is None
    assert refused_backend(address) is None


@given(st.ip_addresses())
def test_python_agrees_on_what_is_special(address: IPv4Address | IPv6Address) -> None:
    """The early exit by first byte never lets through what ipaddress calls special."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return
    special = (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.version == 4 and (address.is_reserved or address.packed[0] == 0))
    )

    if special:
        assert refused_vip(parse_address(str(address))) is not None


@pytest.mark.parametrize("port", [10249, 10250, 10256])
def test_daemon_ports_of_a_node_are_not_taken_over(port: int) -> None:
    assert refused_on_node(port, 6) is not None
    assert refused_on_node(port, 17) is None
    assert refused_on_node(443, 6) is None
