# SPDX-License-Identifier: Apache-2.0
"""Programs of a node that no socket hook has served: the packet layer alone carries them.

They run in the node's namespace and outside its cgroup, as with --no-socket-lb, as a client
inside the kernel, or as a socket that is older than the hooks. Their way out leads to the
client outside, which sees every packet that should not have left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.packet_lab import (
    ask,
    ask_until,
    balancer_ip,
    cluster_ip,
    external_ip,
    node_port,
    packet_lab,
    route_everything_to_the_client,
)
from tests.support.sniffer import Sniffer
from vipbee.lab import Lab

FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", ["TCP", "UDP"])
BOTH = {"near-0", "far-0"}

Frontend = Callable[[str, int], str]


@pytest.fixture(scope="module", params=["routed", "bridged", "vxlan"])
def lab(request: pytest.FixtureRequest, lab_name: str) -> Iterator[Lab]:
    with packet_lab(request.param, lab_name) as lab:
        route_everything_to_the_client(lab)
        yield lab


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("frontend", [cluster_ip, balancer_ip, external_ip])
@pytest.mark.parametrize("service", ["cluster", "local"])
def test_a_program_of_the_node_reaches_vips(
    lab: Lab, service: str, frontend: Frontend, protocol: str, family: int
) -> None:
    """R41, R51, D138: backends here and elsewhere, policy Local or not."""
    node = lab.node("node-1")

    with Sniffer(lab.client) as outside:
        answers = ask_until(node, protocol, frontend(service, family), 7000, BOTH)

        assert outside.packets_with(frontend(service, family)) == 0
    assert {answer.server for answer in answers} == BOTH


@FAMILIES
@PROTOCOLS
def test_a_program_of_the_node_reaches_the_nodes_own_node_port(
    lab: Lab, protocol: str, family: int
) -> None:
    """D138, R89."""
    node = lab.node("node-1")
    port = node_port("cluster", "echo")

    answers = ask_until(node, protocol, node.address(family), port, BOTH)

    assert {answer.server for answer in answers} == BOTH


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("node", ["node-1", "node-3"])
def test_a_backend_that_is_itself_a_program_of_a_node(
    lab: Lab, node: str, protocol: str, family: int
) -> None:
    """Host network: on this very node, and on another one."""
    place = lab.node(node)
    for address, port in (
        (cluster_ip("host", family), 7000),
        (balancer_ip("host", family), 7000),
        (place.address(family), node_port("host", "echo")),
    ):
        assert ask(place, protocol, address, port).server == "host-3"


@FAMILIES
@PROTOCOLS
def test_refusals_reach_programs_of_the_node(lab: Lab, protocol: str, family: int) -> None:
    """R35, R37."""
    node = lab.node("node-1")
    for address, port in (
        (cluster_ip("empty", family), 7000),
        (balancer_ip("empty", family), 7000),
        (cluster_ip("cluster", family), 7999),
        (node.address(family), node_port("empty", "echo")),
    ):
        with pytest.raises(ConnectionRefusedError):
            ask(node, protocol, address, port)
