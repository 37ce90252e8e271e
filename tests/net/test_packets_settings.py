# SPDX-License-Identifier: Apache-2.0
"""What the operator sets decides what a client outside meets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agent_view import problems
from tests.support.eventually import eventually
from tests.support.packet_lab import ask, cluster_ip, node_port, packet_lab
from vipbee.core.port_ranges import PortRange
from vipbee.datapath import loopback
from vipbee.lab import Lab

SERVED = PortRange(30000, 30150)  # the NodePorts of `cluster`, not those of `local`
SETTINGS = f"""\
nodeport-range: {SERVED}
cluster-ip-from-outside: true
conntrack-udp-timeout-stream: 45s
conntrack-tcp-timeout-transitory: 50s
"""
SYSCTL = "net.ipv4.ip_local_reserved_ports"


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name, config=SETTINGS) as lab:
        yield lab


def connections(lab: Lab, node: str, protocol: str) -> list[dict[str, Any]]:
    done = lab.agent(node).vipbee(["conntrack", "list", "-o", "json"])
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [entry for entry in found if entry["protocol"] == protocol]


def sysctl(lab: Lab, node: str, name: str = SYSCTL) -> str:
    return lab.node(node).run(["sysctl", "-n", name]).stdout.strip()


def test_a_nodeport_outside_the_range_is_left_to_the_node(lab: Lab) -> None:
    """R93: and the Service says so."""
    inside, outside = node_port("cluster", "echo"), node_port("local", "echo")
    assert (SERVED.has(inside), SERVED.has(outside)) == (True, False)
    node = lab.node("node-1").ipv4

    assert ask(lab.client, "TCP", node, inside).server
    with pytest.raises(ConnectionRefusedError):
        ask(lab.client, "TCP", node, outside)
    told = problems(lab.agent("node-1"))["Service default/local"]
    assert f"is outside nodeport-range {SERVED}" in told


def test_cluster_ips_are_served_to_clients_outside_if_wanted(lab: Lab) -> None:
    """R42"""
    vip = cluster_ip("cluster", 4)
    done = lab.client.run(["ip", "route", "add", f"{vip}/32", "via", lab.node("node-1").ipv4])
    assert done.returncode == 0, done.stderr

    answers = {ask(lab.client, "TCP", vip, 7000).server for _ in range(16)}

    assert answers == {"near-0", "far-0"}


def test_lifetimes_are_what_lists_count_down(lab: Lab) -> None:
    """D68, D97: one clock and one unit from the configuration to the list."""
    ask(lab.client, "UDP", lab.node("node-1").ipv4, node_port("cluster", "echo-udp"))

    flows = connections(lab, "node-1", "UDP")
    assert flows
    assert all(45 - 5 <= flow["remainingSeconds"] + flow["ageSeconds"] <= 45 for flow in flows)


def test_nodeports_are_reserved_until_cleanup(lab: Lab) -> None:
    """D107: of this node's namespace only; what the administrator has reserved stays."""
    agent = lab.agent("node-3")
    assert sysctl(lab, "node-3") == str(SERVED)
    assert lab.client.run(["sysctl", "-n", SYSCTL]).stdout.strip() == ""
    agent.stop()
    lab.node("node-3").run(["sysctl", "-qw", f"{SYSCTL}=8080,{SERVED}"])

    done = agent.vipbee(["cleanup", "-o", "json"])

    assert SYSCTL in json.loads(done.stdout)["removed"]
    assert sysctl(lab, "node-3") == "8080"
    agent.start()
    agent.wait_ready()
    assert sysctl(lab, "node-3") == f"8080,{SERVED}"


def test_what_is_set_at_loopback_is_put_back_by_cleanup(lab: Lab) -> None:
    agent = lab.agent("node-3")
    assert sysctl(lab, "node-3", loopback.SYSCTL) == "1"
    agent.restart()  # it finds it set, and remembers who did
    agent.stop()

    done = agent.vipbee(["cleanup", "-o", "json"])

    assert loopback.SYSCTL in json.loads(done.stdout)["removed"]
    assert sysctl(lab, "node-3", loopback.SYSCTL) == "0"
    agent.start()
    agent.wait_ready()


def test_a_connection_goes_with_the_address_it_is_sent_from(lab: Lab) -> None:
    """D113: not at the next sweep, but when the address goes. Last: node-3 is lost with it."""
    node, agent = lab.node("node-3"), lab.agent("node-3")
    gone = node.ipv4
    ask(lab.client, "UDP", gone, node_port("cluster", "echo-udp"))
    (flow,) = connections(lab, "node-3", "UDP")
    assert flow["source"].startswith(f"{gone}:")

    done = node.run(["ip", "-4", "address", "flush", "dev", "eth0"])
    assert done.returncode == 0, done.stderr

    took = eventually(lambda: not connections(lab, "node-3", "UDP"), within_s=5.0)
    print(f"forgotten after {took * 1e3:.0f} ms, with two runs of vipbee")
    assert agent.is_running
