# SPDX-License-Identifier: Apache-2.0
"""Devices this host's kernel lacks, and what the agent puts on devices and takes off again."""

from __future__ import annotations

import pytest

from tests.kernels.boots import LEAVES_OUTER_HEADERS, Report
from tests.kernels.guest_packets import OTHERS_QDISC
from tests.kernels.guest_places import BESIDE, BEYOND, FAMILIES, OUTSIDE, TUNNEL, VLAN, Network

ATTACHED_BY = {"5.10": "clsact", "6.1": "clsact", "6.12": "tcx"}  # tcx since 6.6
ROLES = dict.fromkeys(["up0", "down0", "up0.5", "tun4", "tun6", "net4", "net6"], "uplink")
ROLES["pod0"] = "pod"
BEHIND: dict[str, Network] = {"VLAN": VLAN, "tunnel": TUNNEL, "dummy": OUTSIDE}
"""Device of the node whose address is dialled → network the client dials it from."""

EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EACH_PROTOCOL = pytest.mark.parametrize("protocol", ["TCP", "UDP"])


@pytest.fixture(scope="module")
def packets(report: Report) -> Report:
    found: Report = report["packets"]
    return found


def test_check_finds_the_kernel_usable(report: Report, kernel: str) -> None:
    output = report["check"]["output"]

    assert report["check"]["exit"] == 0, output
    assert any(line.startswith("packet programs") and " ok " in line for line in output.split("\n"))
    assert ATTACHED_BY[kernel] in output


def test_programs_are_on_every_device_that_clients_or_replies_come_by(
    packets: Report, kernel: str
) -> None:
    """D158, D160, D161: the dummy device carries no packets."""
    status = packets["status"]
    devices = status["devices"]

    assert status["packetLb"] is True
    assert status["problems"] == []
    assert {device["name"]: device["role"] for device in devices} == ROLES
    assert {device["by"] for device in devices} == {ATTACHED_BY[kernel]}
    assert all(device["attached"] == ["egress", "ingress"] for device in devices)


@EACH_FAMILY
@EACH_PROTOCOL
@pytest.mark.parametrize("device", BEHIND)
def test_clients_are_served_by_every_device(
    packets: Report, kernel: str, device: str, protocol: str, family: int
) -> None:
    """D158: a tagged packet is translated once, above the parent. D160, D175: no Ethernet."""
    expected = {
        "near": ["near", BEHIND[device].host(2)[family]],
        "far": ["far", BESIDE.host(1)[family]],
        "beyond": ["far", BEYOND.host(1)[family]],
    }
    if kernel in LEAVES_OUTER_HEADERS:
        if device == "tunnel":
            pytest.skip("packets out of a tunnel are left to the stack below 5.14")
        del expected["beyond"]

    answers = {name: packets[f"{device} {name} {protocol} {family}"] for name in expected}

    assert answers == expected


@EACH_FAMILY
def test_sctp_to_a_node_port_reaches_the_nodes_own_server(packets: Report, family: int) -> None:
    """D14, D39: neither translated nor refused."""
    assert packets[f"SCTP {family}"] == ["node", OUTSIDE.host(2)[family]]


def test_status_needs_no_agent(packets: Report) -> None:
    devices = packets["status without agent"]["devices"]

    assert {device["name"]: device["role"] for device in devices} == ROLES


def test_cleanup_leaves_what_was_there_before(report: Report) -> None:
    """No filter, link or qdisc of ours; a qdisc of somebody else's stays."""
    packets = report["packets"]

    assert packets["cleanup"]["exit"] == 0, packets["cleanup"]["output"]
    assert packets["before"] == [[OTHERS_QDISC, "clsact"]]
    assert packets["after"] == packets["before"]
    assert packets["asked after cleanup"] == "ECONNREFUSED"
    assert report["left_behind"] == []
