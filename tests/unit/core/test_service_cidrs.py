# SPDX-License-Identifier: Apache-2.0
"""Where ClusterIPs are taken from: R38."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vipbee.address import parse_address
from vipbee.core.service_cidrs import MAX_SERVICE_CIDRS, Cidr, collect_cidrs, render_cidrs
from vipbee.datapath.layouts import load_layouts
from vipbee.model import ObjectMeta, ServiceCIDR, ServiceCIDRSpec

LAYOUTS = load_layouts()
V4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32))
V6 = st.tuples(st.integers(1 << 64, 2**128 - 1), st.integers(16, 128))
NETWORKS = st.one_of(V4, V6).map(lambda pair: ip_network((pair[0], pair[1]), strict=False))


def cidr_object(name: str, *cidrs: str) -> ServiceCIDR:
    return ServiceCIDR(metadata=ObjectMeta(name=name), spec=ServiceCIDRSpec(cidrs=list(cidrs)))


def words(text: str) -> np.ndarray:
    return np.frombuffer(parse_address(text), dtype=">u4")


def test_objects_and_option_are_put_together() -> None:
    option = (ip_network("10.96.0.0/12"),)
    objects = [
        cidr_object("kubernetes", "10.96.0.0/12", "fd00:10:96::/112"),
        cidr_object("more", "10.120.0.0/16"),
        ServiceCIDR(metadata=ObjectMeta(name="empty")),
    ]

    found, problems = collect_cidrs(option, objects)

    assert [str(cidr) for cidr in found] == ["10.96.0.0/12", "10.120.0.0/16", "fd00:10:96::/112"]
    assert problems == ()


def test_what_does_not_fit_or_is_no_cidr_is_told() -> None:
    many = cidr_object("many", *(f"10.{n}.0.0/16" for n in range(6)), "nonsense")

    found, problems = collect_cidrs((), [many])

    assert len(found) == MAX_SERVICE_CIDRS
    assert [problem.object for problem in problems] == ["ServiceCIDR many", "ServiceCIDRs"]
    assert "'nonsense' is no CIDR" in problems[0].message


@given(NETWORKS, st.data())
def test_masks_say_who_is_within(network: Cidr, data: st.DataObject) -> None:
    """As is_within() in bpf/unallocated.h compares."""
    first, last = int(network.network_address), int(network.broadcast_address)
    near = data.draw(st.integers(max(first - 2, 0), last + 2))
    size = 32 if network.version == 4 else 128
    address = ip_address(min(near, 2**size - 1).to_bytes(size // 8, "big"))

    entry = render_cidrs(LAYOUTS, [network])["cidr"][0, 0]
    differs = (words(str(address)) ^ entry["network"]["word"]) & entry["mask"]["word"]

    assert (not differs.any()) is (address in network)
