# SPDX-License-Identifier: Apache-2.0
"""Which addresses NodePorts live on: R9, R75, R90, R91."""

from __future__ import annotations

import pytest

from tests.support.services import node
from vipbee.abi import AddressFlag
from vipbee.address import LOOPBACK_V4, LOOPBACK_V6, parse_address
from vipbee.core.nodes import NodeView, address_flags, make_node_view
from vipbee.errors import UsageError

LOCAL = tuple(
    parse_address(text)
    for text in ("127.0.0.1", "192.0.2.1", "198.51.100.1", "::1", "fe80::1", "2001:db8::1")
)


def texts(*addresses: str) -> tuple[bytes, ...]:
    return tuple(parse_address(address) for address in addresses)


def test_internal_address_is_primary_even_if_listed_last() -> None:
    """F30, R90: InternalIP before ExternalIP, one per family."""
    own = node(
        "n1",
        addresses=(
            ("Hostname", "n1"),
            ("ExternalIP", "203.0.113.1"),
            ("InternalIP", "192.0.2.9"),
            ("InternalIP", "192.0.2.10"),
            ("ExternalIP", "2001:db8::9"),
        ),
    )

    view = make_node_view("n1", [own], LOCAL)

    assert view.own_addresses == texts("192.0.2.9", "2001:db8::9")


@pytest.mark.parametrize("nodes", [[], [node("n1", zone="a")], [node("n2")]])
def test_interfaces_decide_while_the_node_object_has_no_address(nodes: list) -> None:
    """F30, R90: loopback and link-local addresses are never primary."""
    view = make_node_view("n1", nodes, LOCAL)

    assert view.own_addresses == texts("192.0.2.1", "2001:db8::1")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("198.51.100.0/24,2001:db8::/64", texts("198.51.100.1", "2001:db8::1")),
        ("198.51.100.0/24", texts("198.51.100.1", "2001:db8::1")),  # no IPv6 CIDR: all of IPv6
        ("2001:db8:1::/64", texts("192.0.2.1", "198.51.100.1")),
        ("0.0.0.0/0, ::/0", texts("192.0.2.1", "198.51.100.1", "2001:db8::1")),
        ("10.0.0.0/8,fd00::/8", ()),
    ],
)
def test_cidr_list_selects_local_addresses(option: str, expected: tuple[bytes, ...]) -> None:
    """R90: inside the CIDRs; every address of a family that has no CIDR."""
    own = node("n1", addresses=(("InternalIP", "10.9.9.9"),))

    assert make_node_view("n1", [own], LOCAL, option).own_addresses == expected


@pytest.mark.parametrize("option", ["", "eth0", "primary,10.0.0.0/8", "10.0.0.0/33"])
def test_other_texts_are_a_usage_error(option: str) -> None:
    with pytest.raises(UsageError, match="--nodeport-addresses"):
        make_node_view("n1", [], LOCAL, option)


@pytest.mark.parametrize(("label", "zone"), [("a", "a"), ("", None), (None, None)])
def test_zone_is_the_own_nodes_label(label: str | None, zone: str | None) -> None:
    """R9, R70: an empty label is none; other nodes' labels do not count."""
    view = make_node_view("n1", [node("n2", zone="b"), node("n1", zone=label)], LOCAL)

    assert view.zone == zone


def test_other_nodes_contribute_their_primary_addresses() -> None:
    others = [
        node("n3", addresses=(("InternalIP", "192.0.2.3"), ("ExternalIP", "203.0.113.3"))),
        node("n2", addresses=(("InternalIP", "2001:db8::2"), ("InternalIP", "not an address"))),
    ]

    view = make_node_view("n1", others, LOCAL)

    assert view.other_addresses == texts("192.0.2.3", "2001:db8::2")


def test_an_own_address_is_never_another_nodes() -> None:
    stale = node("n2", addresses=(("InternalIP", "192.0.2.1"),))

    view = make_node_view("n1", [stale], LOCAL)

    assert view.other_addresses == ()


def test_the_order_of_nodes_does_not_matter() -> None:
    """R7"""
    nodes = [node(f"n{i}", addresses=(("InternalIP", f"192.0.2.{i}"),)) for i in range(1, 9)]

    assert make_node_view("n1", nodes, LOCAL) == make_node_view("n1", nodes[::-1], LOCAL)


def test_flags_tell_own_other_and_loopback_addresses_apart() -> None:
    """R90, R91"""
    mine, other = texts("192.0.2.1", "192.0.2.2")
    view = NodeView(name="n1", own_addresses=(mine,), other_addresses=(other,))

    assert address_flags(view) == {
        mine: AddressFlag.NODE | AddressFlag.OWN,
        other: AddressFlag.NODE,
        LOOPBACK_V4: AddressFlag.NODE | AddressFlag.OWN | AddressFlag.HOST_ONLY,
        LOOPBACK_V6: AddressFlag.NODE | AddressFlag.OWN | AddressFlag.HOST_ONLY,
    }


def test_loopback_can_be_switched_off() -> None:
    """R91"""
    assert address_flags(make_node_view("n1", [], (), loopback=False)) == {}


def test_bind_address_goes_before_what_the_node_object_says() -> None:
    """R90: of its family; the other one stays as it was."""
    own = node("n1", addresses=(("InternalIP", "192.0.2.9"), ("InternalIP", "2001:db8::9")))

    view = make_node_view("n1", [own], LOCAL, bind_address=parse_address("198.51.100.1"))

    assert view.own_addresses == texts("198.51.100.1", "2001:db8::9")
