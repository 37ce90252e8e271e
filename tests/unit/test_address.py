# SPDX-License-Identifier: Apache-2.0
"""Addresses are compared by value and read strictly: R25, CVE-2021-29921."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipbee.address import V4_PREFIX, family_of, format_address, format_endpoint, parse_address


@given(st.ip_addresses())
def test_python_agrees_on_every_address(address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return
    expected = V4_PREFIX + address.packed if address.version == 4 else address.packed

    assert parse_address(str(address)) == expected
    assert parse_address(format_address(expected)) == expected
    assert family_of(expected) == address.version


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.180.00.001", "10.180.0.1"),  # decimal, never octal
        ("010.0.0.010", "10.0.0.10"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::10.0.0.1", "::a00:1"),
    ],
)
def test_spellings_of_one_address_are_equal(text: str, canonical: str) -> None:
    """R25"""
    assert format_address(parse_address(text)) in (canonical, text)
    assert parse_address(text) == parse_address(canonical)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "10.0.0", "10.0.0.0.1", "10.0.0.256", "0400.0.0.1", "10.0.0.1 ", "10.0.0.1\n"),
        *("10.0.0.1/32", "0x0a.0.0.1", "1", "-1.0.0.0", "10.0.0.1\0", "localhost", "fe80::1%eth0"),
        *("٣.0.0.1", "１０.0.0.1", "\ud800", ":", ":::", "1::2::3", "[::1]", "2001:db8::g"),
        *("::1\0", "\ud800:"),
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    """F32"""
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_address(text)


def test_v4_mapped_text_is_refused() -> None:
    with pytest.raises(ValueError, match="write it as IPv4"):
        parse_address("::ffff:10.0.0.1")


def test_endpoint_text_brackets_ipv6() -> None:
    assert format_endpoint(parse_address("10.0.0.1"), 80) == "10.0.0.1:80"
    assert format_endpoint(parse_address("2001:db8::1"), 80) == "[2001:db8::1]:80"
