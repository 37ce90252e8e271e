# SPDX-License-Identifier: Apache-2.0
"""Programs of a node that no socket hook has served: the packet layer alone carries them.

They run in the node's namespace and outside its cgroup, as with --no-socket-lb, as a client
inside the kernel, or as a socket that is older than the hooks. Their way out leads to the
client outside, which sees every packet that should not have left.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.packet_lab import (
    WHOAMI,
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


@FAMILIES
@PROTOCOLS
def test_d106_a_socket_on_a_port_that_snat_has_talks_to_the_same_backend(
    lab: Lab, protocol: str, family: int
) -> None:
    """D106: a client outside was there first; both are answered, and the client stays."""
    node, client = lab.node("node-1"), lab.client
    frontend = (node.address(family), node_port("host", "echo"))
    peer = (lab.node("node-3").address(family), 7000)

    with client.inside(lambda: dialled(protocol, frontend)) as outer:
        _, shown = whoami(outer)
        with node.inside(lambda: dialled(protocol, peer, local=shown)) as own:
            server, seen = whoami(own)

            assert (server, own.getsockname()[:2]) == ("host-3", shown)
            assert seen[0] == shown[0]
            assert seen[1] != shown[1]
            assert [whoami(outer), whoami(own)] == [("host-3", shown), (server, seen)]


@FAMILIES
def test_r94_an_answer_to_a_datagram_from_a_nodeport_number_is_the_socket_s(
    lab: Lab, family: int
) -> None:
    """R94: a socket of the node that was bound there asks a server outside."""
    node, client = lab.node("node-1"), lab.client
    local = (node.address(family), node_port("host", "echo-udp"))

    with client.inside(lambda: bound((client.address(family), 0))) as server:
        there = server.getsockname()[:2]
        with node.inside(lambda: dialled("UDP", there, local=local)) as own:
            own.sendall(b"question")
            question, asker = server.recvfrom(100)
            server.sendto(b"answer", asker)

            assert (question, asker[:2], own.recv(100)) == (b"question", local, b"answer")
    stranger = ask(client, "UDP", *local)
    assert stranger.server == "host-3"


def dialled(
    protocol: str, address: tuple[str, int], *, local: tuple[str, int] | None = None
) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    dialling = socket.socket(family, kind)
    dialling.settimeout(5)
    if local is not None:
        dialling.bind(local)
    dialling.connect(address)
    return dialling


def bound(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    waiting = socket.socket(family, socket.SOCK_DGRAM)
    waiting.settimeout(5)
    waiting.bind(address)
    return waiting


def whoami(connected: socket.socket) -> tuple[str, tuple[str, int]]:
    """Who answers, and the client that it sees."""
    connected.sendall(WHOAMI)
    server, address, port = connected.recv(100).decode().split()
    return server, (address, int(port))
