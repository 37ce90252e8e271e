# SPDX-License-Identifier: Apache-2.0
"""Names and addresses of a lab, and the commands that make its network."""

from __future__ import annotations

import pytest

from vipbee.errors import UsageError
from vipbee.lab.blueprint import Blueprint, draw_blueprint
from vipbee.lab.topology import parse_topology
from vipbee.lab.wiring import plan_wiring

TOPOLOGY = """
name: t
network: {network}
nodes:
  - name: node-1
    pods:
      - {{name: web-0, app: web}}
      - {{name: host-0, hostNetwork: true}}
      - {{name: web-1, app: web}}
  - name: node-2
"""


def blueprint(network: str = "routed") -> Blueprint:
    return draw_blueprint(parse_topology(TOPOLOGY.format(network=network)))


@pytest.mark.parametrize(
    ("name", "ipv4", "ipv6", "namespace", "cgroup"),
    [
        ("node-2", "172.30.0.2", "fd00:172:30::2", "vb-t-node-2", "vipbee-lab/t/node-2"),
        ("web-0", "10.244.1.2", "fd00:10:244:1::2", "vb-t-web-0", "vipbee-lab/t/node-1/web-0"),
        ("web-1", "10.244.1.4", "fd00:10:244:1::4", "vb-t-web-1", "vipbee-lab/t/node-1/web-1"),
        ("host-0", "172.30.0.1", "fd00:172:30::1", "vb-t-node-1", "vipbee-lab/t/node-1/host-0"),
        ("client", "172.30.0.200", "fd00:172:30::c8", "vb-t-client", "vipbee-lab/t/client"),
    ],
)
def test_places_have_the_documented_addresses(
    name: str, ipv4: str, ipv6: str, namespace: str, cgroup: str
) -> None:
    place = blueprint().place(name)

    actual = (str(place.ipv4), str(place.ipv6), place.namespace, place.cgroup)
    assert actual == (ipv4, ipv6, namespace, cgroup)


def test_an_unknown_place_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no node or pod db-0; it has node-1, node-2, web-0"):
        blueprint().place("db-0")


def test_every_namespace_is_made_and_wired_once() -> None:
    drawn = blueprint()

    assert len(drawn.namespaces) == len(set(drawn.namespaces))
    assert set(plan_wiring(drawn).namespaces) == set(drawn.namespaces)


@pytest.mark.parametrize("network", ["routed", "bridged"])
def test_only_a_bridged_network_has_a_pod_bridge(network: str) -> None:
    wiring = plan_wiring(blueprint(network))

    commands = [line for plan in wiring.namespaces.values() for line in plan.commands]
    has_bridge = any("cni0" in line for line in (*wiring.links, *commands))
    assert has_bridge == (network == "bridged")


@pytest.mark.parametrize("network", ["routed", "bridged"])
def test_nodes_know_no_way_out(network: str) -> None:
    drawn = blueprint(network)

    for node in drawn.nodes:
        commands = plan_wiring(drawn).namespaces[node.place.namespace].commands
        defaults = [line for line in commands if "default" in line or "::/0" in line]
        assert [line.split()[:3] for line in defaults] == [["route", "add", "unreachable"]] * 2
