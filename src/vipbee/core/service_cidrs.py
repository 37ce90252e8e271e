# SPDX-License-Identifier: Apache-2.0
"""Where ClusterIPs are taken from: ServiceCIDR objects and the operator's option (R38)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

import numpy as np

from vipbee.abi import Layouts
from vipbee.address import parse_address
from vipbee.core.snapshot import Records
from vipbee.model import Problem, ServiceCIDR

Cidr = IPv4Network | IPv6Network

MAX_SERVICE_CIDRS = 4  # of bpf/abi.h
_V4_OFFSET = 96  # bits of the v4-mapped prefix


def collect_cidrs(
    option: Iterable[Cidr], objects: Iterable[ServiceCIDR]
) -> tuple[tuple[Cidr, ...], tuple[Problem, ...]]:
    """All of them, sorted, at most as many as the datapath takes; and what is wrong with others.

    What is left out costs only that its free addresses pass like any other.
    """
    found: set[Cidr] = set(option)
    problems = []
    for item in objects:
        for text in (item.spec.cidrs if item.spec else None) or ():
            try:
                found.add(ip_network(text, strict=False))
            except ValueError:
                message = f"spec.cidrs: {text!a} is no CIDR: it is ignored"
                problems.append(Problem(f"ServiceCIDR {item.metadata.name}", message, False))
    usable = sorted(found, key=lambda cidr: (cidr.version, cidr.network_address, cidr.prefixlen))
    if len(usable) > MAX_SERVICE_CIDRS:
        message = (
            f"there are {len(usable)}, of which {MAX_SERVICE_CIDRS} are known to the datapath:"
            " packets to unallocated addresses of the others pass"
        )
        problems.append(Problem("ServiceCIDRs", message, is_error=False))
    return tuple(usable[:MAX_SERVICE_CIDRS]), tuple(problems)


def render_cidrs(layouts: Layouts, cidrs: Iterable[Cidr]) -> Records:
    """One struct service_cidrs."""
    value = np.zeros(1, dtype=layouts["service_cidrs"])
    for index, cidr in enumerate(cidrs):
        length = cidr.prefixlen + (_V4_OFFSET if cidr.version == 4 else 0)
        mask = ((1 << length) - 1 << 128 - length).to_bytes(16, "big")
        network = parse_address(str(cidr.network_address))
        entry = value["cidr"][0, index]
        entry["network"]["word"] = np.frombuffer(network, dtype=">u4")
        entry["mask"]["word"] = np.frombuffer(mask, dtype=">u4")
        value["count"] = index + 1
    return value
