# SPDX-License-Identifier: Apache-2.0
"""One connection through each packet program: what the lab is for, and the first thing to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers import inet
from scapy.layers.inet import IP

from tests.support.packets import (
    NODE_V4,
    PASS,
    POD_GATEWAY_V4,
    REDIRECT,
    PacketLab,
    ethernet,
    network_layer,
)
from tests.support.servers import TCP
from tests.support.stacks import cluster_ip, node_port, service_port
from vipbee.abi import MapName, Reason

Segment = inet.TCP

CLIENT, REMOTE, POD, VIP = "203.0.113.7", "10.244.2.9", "10.244.1.5", "10.96.0.10"


@pytest.fixture(scope="module")
def lab(as_root: None) -> Iterator[PacketLab]:
    with PacketLab.up() as up:
        yield up


def test_remote_backend_there_and_back(lab: PacketLab) -> None:
    """R47, R121, D68, D100: both ways by redirect, then among the established."""
    lab.program(service_port("web", node_port(4, 30080, TCP), [REMOTE]))
    to_node = IP(src=CLIENT, dst=NODE_V4)

    syn = lab.run("vipbee_uplink_in", ethernet(to_node / Segment(sport=40000, dport=30080)))
    sent = network_layer(syn.packet)
    answer = IP(src=sent.dst, dst=sent.src) / Segment(
        sport=sent.dport, dport=sent.sport, flags="SA", ack=1
    )
    back = lab.run("vipbee_uplink_in", ethernet(answer))
    shown = network_layer(back.packet)
    ack = to_node / Segment(sport=40000, dport=30080, flags="A", seq=1, ack=1)
    lab.run("vipbee_uplink_in", ethernet(ack))

    assert (syn.verdict, back.verdict) == (REDIRECT, REDIRECT)
    assert (sent.src, sent.dst, sent.sport, sent.dport) == (NODE_V4, REMOTE, 40000, 8080)
    assert (shown.src, shown.dst, shown.sport, shown.dport) == (NODE_V4, CLIENT, 30080, 40000)
    assert len(lab.entries(MapName.CONNTRACK_OUTSIDE, "conntrack")) == 1
    assert lab.entries(MapName.CONNTRACK_NEW_OUTSIDE, "conntrack") == []


def test_pod_reaches_itself(lab: PacketLab) -> None:
    """R59, D137"""
    lab.program(service_port("self", cluster_ip(VIP, 80, TCP), [POD]))

    there = lab.run(
        "vipbee_pod_in",
        ethernet(IP(src=POD, dst=VIP) / Segment(sport=5000, dport=80)),
        device="pods0",
    )
    sent = network_layer(there.packet)

    assert there.verdict == REDIRECT
    assert (sent.src, sent.dst, sent.dport) == (POD_GATEWAY_V4, POD, 8080)


def test_device_without_ethernet_header(lab: PacketLab) -> None:
    """D160: the twin program finds the packet at its first byte."""
    lab.program(service_port("l3", cluster_ip(VIP, 80, TCP), [REMOTE]))
    packet = IP(src=POD, dst=VIP) / Segment(sport=6000, dport=80)

    result = lab.run("vipbee_pod_in_l3", bytes(packet), device="pods0")

    assert result.verdict == PASS
    assert IP(result.packet).dst == REMOTE


def test_no_endpoint_is_refused_with_a_reset(lab: PacketLab) -> None:
    """R35, D135"""
    lab.program(service_port("none", node_port(4, 30081, TCP), []))
    before = lab.reasons().get(Reason.NO_ENDPOINT, 0)

    frame = ethernet(IP(src=CLIENT, dst=NODE_V4) / Segment(sport=1, dport=30081, seq=7))
    result = lab.run("vipbee_uplink_in", frame)
    answer = network_layer(result.packet)

    assert result.verdict == REDIRECT
    assert (answer.src, answer.dst) == (NODE_V4, CLIENT)
    assert (str(answer[Segment].flags), answer[Segment].ack) == ("RA", 8)
    assert lab.reasons()[Reason.NO_ENDPOINT] == before + 1
