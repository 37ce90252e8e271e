# SPDX-License-Identifier: Apache-2.0
"""Packets to addresses that ClusterIPs are taken from and that no Service has (R38)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import numpy as np
import pytest
from scapy.layers import inet
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from tests.support.packets import DROP, NODE_V4, NODE_V6, PASS, PacketLab, ethernet
from tests.support.servers import TCP
from tests.support.stacks import cluster_ip, service_port
from vipbee.abi import MapName, Reason
from vipbee.core.service_cidrs import render_cidrs
from vipbee.datapath import syscall

SYN = inet.TCP(sport=5000, dport=80)


@pytest.fixture(scope="module")
def lab(as_root: None) -> Iterator[PacketLab]:
    with PacketLab.up() as up:
        up.program(service_port("web", cluster_ip("10.96.0.10", 80, TCP), ["10.244.2.9"]))
        yield up


def know(lab: PacketLab, *cidrs: str) -> None:
    value = render_cidrs(lab.layouts, [ip_network(cidr) for cidr in cidrs])
    syscall.map_update(lab.fds[MapName.SERVICE_CIDRS], np.zeros(1, np.uint32), value)


def leaving(lab: PacketLab, packet: Packet, program: str = "vipbee_uplink_out") -> int:
    return lab.run(program, ethernet(packet)).verdict


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=NODE_V4, dst="10.96.255.254") / SYN,
        IP(src="10.244.1.5", dst="10.100.0.1") / UDP(sport=5, dport=53),
        IP(src=NODE_V4, dst="10.96.0.0") / ICMP(),
        IPv6(src=NODE_V6, dst="fd00:10:96::dead") / SYN,
    ],
    ids=["tcp", "udp of a pod", "ping", "v6"],
)
def test_packet_to_a_free_cluster_ip_does_not_leave(lab: PacketLab, packet: Packet) -> None:
    know(lab, "10.96.0.0/16", "10.100.0.0/24", "fd00:10:96::/112")
    before = lab.reasons().get(Reason.UNALLOCATED, 0)

    assert leaving(lab, packet) == DROP
    assert lab.reasons()[Reason.UNALLOCATED] == before + 1


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=NODE_V4, dst="10.96.0.10") / SYN,
        IP(src=NODE_V4, dst="10.97.0.1") / SYN,
        IP(src=NODE_V4, dst="10.95.255.255") / SYN,
        IPv6(src=NODE_V6, dst="fd00:10:96::1:0") / SYN,
        IPv6(src=NODE_V6, dst="::a60:1") / SYN,
    ],
    ids=["a Service's", "above", "below", "above, v6", "the bytes of an IPv4 address"],
)
def test_everything_else_passes(lab: PacketLab, packet: Packet) -> None:
    know(lab, "10.96.0.0/16", "fd00:10:96::/112")

    assert leaving(lab, packet) == PASS


def test_without_a_known_cidr_nothing_is_policed(lab: PacketLab) -> None:
    know(lab)

    assert leaving(lab, IP(src=NODE_V4, dst="10.96.255.254") / SYN) == PASS


@pytest.mark.parametrize("program", ["vipbee_pod_in", "vipbee_pod_out", "vipbee_uplink_in"])
def test_other_proxies_of_the_node_have_their_turn_first(lab: PacketLab, program: str) -> None:
    """R2: a Service with service-proxy-name has a ClusterIP we know nothing of."""
    know(lab, "10.96.0.0/16")

    assert leaving(lab, IP(src="10.244.1.5", dst="10.96.7.7") / SYN, program) == PASS
