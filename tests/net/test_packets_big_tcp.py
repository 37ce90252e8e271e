# SPDX-License-Identifier: Apache-2.0
"""BIG TCP through the packet layer: super-packets whose length no header can say.

IPv6 ones have payload length 0 and a jumbo option in front of TCP, IPv4 ones total length 0.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest

from tests.net.test_packets_streams import BACKENDS, FAMILIES, transfer
from tests.support.big_tcp import BIG, ORDINARY, drained, frames_of, set_sizes
from tests.support.packet_lab import node_port, packet_lab
from vipbee.lab import Lab
from vipbee.lab.namespaces import run_inside
from vipbee.lab.wiring import pod_device

BYTES = 64 << 20  # there and back
ETHERNET = 14
HOP_BY_HOP = 0


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name) as lab:
        for namespace, device in every_device(lab):
            try:
                run_inside(namespace, lambda device=device: set_sizes(device, BIG))
            except OSError as error:
                pytest.skip(f"no BIG TCP on this kernel: {error}")
        yield lab


def every_device(lab: Lab) -> Iterator[tuple[str, str]]:
    """All that lie between the client, the backends and the nodes."""
    plan = lab.blueprint
    places = [*(node.place for node in plan.nodes), plan.client]
    yield plan.fabric_namespace, "br0"
    for place in places:
        yield plan.fabric_namespace, f"port{place.number}"
        yield place.namespace, "eth0"
    for node in plan.nodes:
        for pod in node.pods:
            if pod.name in BACKENDS:
                yield node.place.namespace, pod_device(pod)
                yield pod.namespace, "eth0"


@FAMILIES
@pytest.mark.parametrize("timestamps", [1, 0], ids=["timestamps", "no timestamps"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_d13_packets_beyond_64_kb_arrive_whole(
    lab: Lab, backend: str, timestamps: int, family: int
) -> None:
    """D13, D42, D43: such packets meet the hook of the node, and every byte arrives, at a local
    backend and, with SNAT, at a remote one; we measure their segments, as they leave.

    The kernel counts the jumbo option to them where it forwards, and says too big: of IPv6, TCP
    goes on in smaller packets after each that a stack forwards, with or without us.
    """
    client, node = lab.client, lab.node("node-1")
    address = (node.address(family), node_port("cluster", "echo"))
    client.run(["sysctl", "-qw", f"net.ipv4.tcp_timestamps={timestamps}"], check=True)

    before = too_big(lab)
    with node.inside(lambda: frames_of("eth0")) as seen:
        sent, received = client.inside(lambda: transfer(address, backend, BYTES))
        frames = list(drained(seen))

    assert sent == received
    assert any(is_big(frame, family) for frame in frames)
    assert too_big(lab) == before


def too_big(lab: Lab) -> int:
    """What node-1 has refused to send on; its kernel counts for itself."""
    status = json.loads(lab.agent("node-1").vipbee(["status", "-o", "json"]).stdout)
    return int(status["reasons"]["too_big"])


def is_big(frame: bytes, family: int) -> bool:
    if len(frame) <= ORDINARY + ETHERNET + 40:
        return False
    if family == 4:
        (length,) = struct.unpack_from("!H", frame, ETHERNET + 2)
        return bool(length == 0)
    length, following = struct.unpack_from("!HB", frame, ETHERNET + 4)
    return bool(length == 0 and following == HOP_BY_HOP)
