# SPDX-License-Identifier: Apache-2.0
"""What the socket layer leaves to packets, asked by programs whose sockets the hooks see.

Policy Local without a local endpoint, source ranges, sockets older than their Service; and
everything, where the socket layer is off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.packet_lab import (
    balancer_ip,
    cluster_ip,
    external_ip,
    node_port,
    packet_lab,
    route_everything_to_the_client,
    service,
)
from tests.support.remote import Remote, RemoteSocket
from tests.support.sniffer import Sniffer
from vipbee.lab import Lab

FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", ["TCP", "UDP"])
PLACES = pytest.mark.parametrize("where", ["plain-1", "node-1"])
BOTH = {"near-0", "far-0"}


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name) as lab:
        route_everything_to_the_client(lab)
        yield lab


@pytest.fixture(scope="module")
def without_sockets(lab_name: str) -> Iterator[Lab]:
    with packet_lab("bridged", f"{lab_name[:15]}n", options=("--no-socket-lb",)) as lab:
        route_everything_to_the_client(lab)
        yield lab


@FAMILIES
@PLACES
def test_a_syn_is_not_answered_until_there_is_a_local_endpoint(
    lab: Lab, where: str, family: int
) -> None:
    """R44: dropped, so the very same connect(2) succeeds as soon as there is one."""
    address = (cluster_ip("inward", family), 7000)
    lab.remove_endpoint("near-0")
    try:
        with Remote(lab.place(where)) as remote, Sniffer(lab.client) as outside:
            waiting = silent(remote, "TCP", address)

            lab.add_endpoint("near-0")

            waiting.settimeout(10)
            assert waiting.ask() == "near-0"
            assert waiting.getpeername() == address
            assert outside.packets_with(address[0]) == 0
    finally:
        lab.add_endpoint("near-0")


@FAMILIES
@PLACES
def test_datagrams_are_lost_until_there_is_a_local_endpoint(
    lab: Lab, where: str, family: int
) -> None:
    """R44, R112."""
    address = (cluster_ip("inward", family), 7000)
    lab.remove_endpoint("near-0")
    try:
        with Remote(lab.place(where)) as remote:
            waiting = silent(remote, "UDP", address)

            lab.add_endpoint("near-0")

            eventually(lambda: answers(waiting) == "near-0")
    finally:
        lab.add_endpoint("near-0")


@PROTOCOLS
def test_source_ranges_bind_pods_and_programs_of_the_node(lab: Lab, protocol: str) -> None:
    """R80-R82: the pod is outside of them, the node inside; IPv6 has none."""
    with Remote(lab.pod("plain-1")) as pod, Remote(lab.node("node-1")) as node:
        assert silent(pod, protocol, (balancer_ip("ranged", 4), 7000), at_once=True)
        assert answers(connected(pod, protocol, (balancer_ip("ranged", 6), 7000))) in BOTH
        assert answers(connected(pod, protocol, (external_ip("ranged", 4), 7000))) in BOTH
        assert answers(connected(node, protocol, (balancer_ip("ranged", 4), 7000))) in BOTH


@FAMILIES
@PLACES
def test_a_socket_connected_before_its_service_existed_reaches_it(
    lab: Lab, where: str, family: int
) -> None:
    """R122."""
    late = service("late", "web")
    lab.services = [each for each in lab.services if each["metadata"]["name"] != "late"]
    lab.publish()
    address = (cluster_ip("late", family), 7000)
    with Remote(lab.place(where)) as remote:
        older = silent(remote, "UDP", address)

        lab.services.append(late)
        lab.publish()

        eventually(lambda: answers(older) in BOTH)
        assert older.getpeername() == address


@FAMILIES
@PROTOCOLS
@pytest.mark.parametrize("where", ["plain-1", "sealed-1", "node-1"])
def test_the_packet_layer_alone_carries_a_node(
    without_sockets: Lab, where: str, protocol: str, family: int
) -> None:
    """R41, R50, R51, R89, D138: with --no-socket-lb, from pods and from the node."""
    lab = without_sockets
    node = lab.node("node-1").address(family)
    with Remote(lab.place(where)) as remote, Sniffer(lab.client) as outside:
        for address in (
            (cluster_ip("cluster", family), 7000),
            (cluster_ip("local", family), 7000),
            (balancer_ip("local", family), 7000),
            (external_ip("cluster", family), 7000),
            (node, node_port("local", "echo")),
        ):
            found: set[str | None] = set()
            while not found >= BOTH:
                asking = connected(remote, protocol, address)
                found.add(answers(asking))
                assert found <= BOTH
                assert asking.getpeername() == address
                asking.close()
            if address[0] != node:
                assert outside.packets_with(address[0]) == 0
        address = (cluster_ip("empty", family), 7000)
        assert remote.who(address, protocol.lower()) == "ECONNREFUSED"


def opened(remote: Remote, protocol: str, address: tuple[str, int]) -> RemoteSocket:
    family = 6 if ":" in address[0] else 4
    return remote.tcp(family) if protocol == "TCP" else remote.udp(family)


def connected(remote: Remote, protocol: str, address: tuple[str, int]) -> RemoteSocket:
    made = opened(remote, protocol, address)
    made.settimeout(3)
    made.connect(address)
    return made


def silent(
    remote: Remote, protocol: str, address: tuple[str, int], *, at_once: bool = False
) -> RemoteSocket:
    """A socket that is not answered; until there is one, unless it must be so `at_once`."""
    deadline = time.monotonic() + 20
    while True:
        made = opened(remote, protocol, address)
        made.settimeout(0.3)
        try:
            made.connect(address)
            answered = answers(made) is not None
        except TimeoutError:
            return made
        # connected to a backend that went meanwhile; or a Service that is about to go
        except (ConnectionAbortedError, ConnectionRefusedError):
            answered = True
        if not answered:
            return made
        assert not at_once
        assert time.monotonic() < deadline
        made.close()


def answers(asking: RemoteSocket) -> str | None:
    """Who answers, None: nobody in a third of a second."""
    asking.settimeout(0.3)
    try:
        return asking.ask()
    except TimeoutError:
        return None
