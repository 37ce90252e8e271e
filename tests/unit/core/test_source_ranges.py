# SPDX-License-Identifier: Apache-2.0
"""loadBalancerSourceRanges: which clients of an LB VIP are served (R80-R85)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipbee.abi import FrontendFlag, FrontendKind, MapName
from vipbee.address import parse_address
from vipbee.core.desired import Desired
from vipbee.core.nodes import NodeView
from vipbee.core.select import Selection, select
from vipbee.core.snapshot import Capacity
from vipbee.core.source_ranges import complement, contains, parse_source_ranges
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.model import (
    Ingress,
    LoadBalancerStatus,
    ObjectMeta,
    PortSpec,
    Service,
    ServiceSpec,
    ServiceStatus,
    SourceRange,
)

LAYOUTS = load_layouts()
NODE_IP = "172.18.0.2"
NODE = NodeView("node-a", own_addresses=(parse_address(NODE_IP),), packet_lb=True)


def cidr(text: str) -> SourceRange:
    address, _, length = text.partition("/")
    return SourceRange(parse_address(address), int(length))


def balanced(*ranges: str, vips: tuple[str, ...] = ("203.0.113.2",)) -> Service:
    return Service(
        metadata=ObjectMeta(namespace="default", name="web"),
        spec=ServiceSpec(
            type="LoadBalancer",
            clusterIP="10.96.0.10",
            clusterIPs=["10.96.0.10", "fd00::10"],
            ipFamilies=["IPv4", "IPv6"],
            ports=[PortSpec(port=80, protocol="TCP", nodePort=30080)],
            loadBalancerSourceRanges=list(ranges),
        ),
        status=ServiceStatus(
            loadBalancer=LoadBalancerStatus(ingress=[Ingress(ip=vip) for vip in vips])
        ),
    )


def chosen(*ranges: str, vips: tuple[str, ...] = ("203.0.113.2",)) -> Selection:
    return select(balanced(*ranges, vips=vips), (), NODE)


def ranges_of(selection: Selection) -> dict[int, tuple[SourceRange, ...]]:
    return {port.key.family: port.source_ranges for port in selection.ports}


def test_ranges_are_kept_per_family() -> None:
    """R82: no range of a family leaves it open."""
    found = ranges_of(chosen("192.0.2.0/24", vips=("203.0.113.2", "2001:db8::2")))

    assert found == {4: (cidr("192.0.2.0/24"),), 6: ()}


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", " 0.0.0.0/0 "])
def test_a_range_of_length_zero_opens_its_family(everybody: str) -> None:
    """R83."""
    assert ranges_of(chosen("192.0.2.0/24", everybody))[4] == ()


def test_what_is_no_range_is_named_and_skipped() -> None:
    """R83."""
    found = chosen("192.0.2.0/24", "everyone", " 198.51.100.7 ")

    assert ranges_of(found)[4] == (cidr("192.0.2.0/24"), cidr("198.51.100.7/32"))
    told = [problem.message for problem in found.problems]
    assert told == ["spec.loadBalancerSourceRanges: 'everyone' is no CIDR: it is ignored"]


def test_a_node_in_the_ranges_may_come_from_the_vip() -> None:
    """R84."""
    found = ranges_of(chosen("172.18.0.0/16"))

    assert found[4] == (cidr("172.18.0.0/16"), cidr("203.0.113.2/32"))


def test_host_bits_do_not_count() -> None:
    by_family, unreadable = parse_source_ranges(["192.0.2.77/24", "2001:db8::1/32"])

    assert by_family == {4: (cidr("192.0.2.0/24"),), 6: (cidr("2001:db8::/32"),)}
    assert unreadable == []
    assert contains(by_family[4], parse_address("192.0.2.200"))
    assert not contains(by_family[4], parse_address("192.0.3.1"))


def test_only_lb_frontends_ask_for_the_ranges_and_the_table_follows_the_service() -> None:
    """R81; the entries go with the Service and with the range."""
    capacity = Capacity(
        frontends=16, addresses=16, slots=16, backends=16, services=16, source_ranges=4
    )
    tables = MemoryTables(LAYOUTS, capacity)
    desired = Desired(LAYOUTS, capacity)

    def program(*ranges: str, gone: bool = False) -> set[tuple[int, int]]:
        ports = () if gone else chosen(*ranges).ports
        name = chosen().ports[0].key.service
        for op in desired.update({name: ports}):
            tables.apply(op)
        keys = tables.snapshot().source_range_keys
        assert keys is not None
        return {(int(key["prefix_length"]), int(key["address"]["word"][3])) for key in keys}

    first = program("192.0.2.0/24")
    snapshot = tables.snapshot()
    flagged = snapshot.frontends["flags"] & FrontendFlag.SOURCE_RANGES != 0
    moved = program("198.51.100.0/25", "192.0.2.0/24")
    narrowed = program("198.51.100.0/25")

    assert first == {(32 + 96 + 24, 0xC0000200)}
    assert set(snapshot.frontends["kind"][flagged].tolist()) == {FrontendKind.LOAD_BALANCER}
    assert moved == {(32 + 96 + 24, 0xC0000200), (32 + 96 + 25, 0xC6336400)}
    assert narrowed == {(32 + 96 + 25, 0xC6336400)}
    assert program(gone=True) == set()


def test_an_audit_puts_the_ranges_right() -> None:
    """R130."""
    capacity = Capacity(
        frontends=16, addresses=16, slots=16, backends=16, services=16, source_ranges=4
    )
    tables = MemoryTables(LAYOUTS, capacity)
    desired = Desired(LAYOUTS, capacity)
    selection = chosen("192.0.2.0/24")
    for op in desired.full({selection.ports[0].key.service: selection.ports}):
        tables.apply(op)
    right = tables.snapshot().source_range_keys
    assert right is not None
    stray = right.copy()
    stray["service_id"] = 9

    damaged = tables.snapshot()
    repairs = desired.audit(
        type(damaged)(
            **{f: getattr(damaged, f) for f in damaged.__slots__ if f != "source_range_keys"},
            source_range_keys=stray,
        )
    )

    found = {(op.map, op.values is None): op.keys for op in repairs}
    assert np.array_equal(found[MapName.SOURCE_RANGES, True], stray)
    assert np.array_equal(found[MapName.SOURCE_RANGES, False], right)


# ---- annotation src-ranges-policy: deny ------------------------------------------------------

V4_LISTS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)).map(
        lambda pair: str(ip_network((pair[0] >> 20 << 20 | pair[0] & 3, pair[1]), strict=False))
    ),
    min_size=1,
    max_size=6,
)


@given(V4_LISTS, st.data())
def test_denied_are_exactly_those_in_the_list(denied: list[str], data: st.DataObject) -> None:
    some = ip_network(data.draw(st.sampled_from(denied)))
    near = int(some.network_address) + data.draw(st.integers(-2, min(some.num_addresses, 1 << 20)))
    client = ip_address(min(max(near, 1), 2**32 - 1))

    left = complement(denied)[4]

    is_denied = any(client in ip_network(text) for text in denied)
    assert contains(left, parse_address(str(client))) is not is_denied


def test_deny_list_of_everybody_leaves_nobody() -> None:
    """And not an empty list, which means everybody (R83)."""
    assert complement(["0.0.0.0/0", "10.0.0.0/8"]) == {4: (cidr("0.0.0.0/32"),)}


@pytest.mark.parametrize("name", ["vipbee.io", "service.cilium.io"])
def test_annotation_turns_the_list_into_those_who_may_not(name: str) -> None:
    service = balanced("128.0.0.0/1", "fd00::/8")
    service.metadata.annotations = {f"{name}/src-ranges-policy": "deny"}

    ports = select(service, (), NODE).ports

    by_family = {port.key.family: port.source_ranges for port in ports}
    assert by_family[4] == (cidr("0.0.0.0/1"),)
    assert not contains(by_family[6], parse_address("fd12::1"))
    assert contains(by_family[6], parse_address("2001:db8::1"))
