# SPDX-License-Identifier: Apache-2.0
"""Streams through the packet layer: nothing is lost, cut or changed while things happen."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.packet_lab import (
    Answer,
    ask,
    ask_until,
    balancer_ip,
    cluster_ip,
    node_port,
    packet_lab,
)
from tests.support.packet_model.generate import Segment, fragments
from tests.support.packet_model.wire import ETH_LENGTH, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind
from vipbee.lab import Lab, Place
from vipbee.lab.probes import Stream

FAMILIES = pytest.mark.parametrize("family", [4, 6])
BULK_MB = int(os.environ.get("VIPBEE_BULK_MB", "64"))  # there and back; 1024 by hand
BACKENDS = ("near-0", "far-0")
HOP_MTU = 1280


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name) as lab:
        yield lab


@pytest.fixture(params=["outside", "sealed"])
def client(request: pytest.FixtureRequest, lab: Lab) -> Place:
    return lab.client if request.param == "outside" else lab.pod("sealed-1")


def vip(client: Place, service: str, family: int) -> str:
    """What this client dials: outside an LB IP, in a pod the ClusterIP."""
    return (balancer_ip if client.name == "client" else cluster_ip)(service, family)


@FAMILIES
def test_no_request_fails_while_backends_come_and_go(lab: Lab, client: Place, family: int) -> None:
    """R32, R34: one of them serves at each instant; long connections stay where they are."""
    with Stream(client, (vip(client, "cluster", family), 7000), held=20) as stream:
        for back, gone in itertools.pairwise(BACKENDS * 3):
            lab.add_endpoint(back)
            lab.remove_endpoint(gone)
            eventually(lambda: not stream.run_for(30).answers[gone])  # noqa: B023
        for pod in BACKENDS:
            lab.add_endpoint(pod)
        eventually(lambda: len(stream.run_for(60).answers) == 2)

    assert stream.total.failures == ()
    assert stream.total.held_exchanges > 300


def test_no_request_fails_while_the_agent_is_killed_and_started(lab: Lab, client: Place) -> None:
    """Forwarding needs no agent: neither new nor old connections, nor the hand-over."""
    with Stream(client, (vip(client, "cluster", 4), 7000), held=20) as stream:
        for _ in range(2):
            lab.agent("node-1").kill()
            without = stream.run_for(200)
            assert set(without.answers) == set(BACKENDS)
            lab.agent("node-1").start()
            lab.agent("node-1").wait_ready()
            stream.run_for(100)

    assert stream.total.failures == ()


def test_a_connection_made_before_a_restart_goes_on_after_it(lab: Lab, client: Place) -> None:
    """F62, R8: the tables outlive the process, and the new one takes nothing away."""
    with Stream(client, (vip(client, "cluster", 6), 7000), held=20) as stream:
        lab.agent("node-1").restart()
        report = stream.run_for(200)

    assert report.failures == ()
    assert report.held_exchanges > 50


def test_a_firewall_that_is_flushed_costs_no_connection(lab: Lab, client: Place) -> None:
    """F56: an administrator starts netfilter afresh on every node; nothing of ours is there."""
    with Stream(client, (vip(client, "cluster", 4), 7000), held=20) as stream:
        stream.run_for(50)
        for node in lab.nodes:
            for command in ("add table inet others", "flush ruleset"):
                node.run(["nft", command], check=True)
        report = stream.run_for(100)

    assert report.failures == stream.total.failures == ()
    assert set(report.answers) == set(BACKENDS)


@FAMILIES
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_transfer_arrives_whole(lab: Lab, client: Place, backend: str, family: int) -> None:
    """D41-D47: segmentation offload, both directions at full speed."""
    address = vip(client, "cluster", family)

    sent, received = client.inside(lambda: transfer((address, 7000), backend, BULK_MB << 20))

    assert sent == received


@FAMILIES
@pytest.mark.parametrize("size", [1473, 8_000, 65_000])
def test_datagrams_larger_than_the_path_arrive_whole(
    lab: Lab, client: Place, family: int, size: int
) -> None:
    """D21-D31: fragments both ways, to a local and to a remote backend."""
    address = vip(client, "cluster", family)

    def exchange() -> tuple[bytes, bytes]:
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        with socket.socket(kind, socket.SOCK_DGRAM) as asking:
            asking.settimeout(3)
            asking.connect((address, 7000))
            data = random.Random(size).randbytes(size)
            asking.send(data)
            return data, asking.recv(65536)

    for _ in range(8):  # both backends, all but surely
        sent, received = client.inside(exchange)
        assert sent == received


@FAMILIES
@pytest.mark.parametrize("kind", [FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER])
@pytest.mark.parametrize("size", [2_000, 65_000])
def test_datagrams_whose_last_fragment_comes_first_arrive_whole(
    lab: Lab, kind: FrontendKind, family: int, size: int
) -> None:
    """D23: to a local and to a remote backend; the answer comes in the usual order."""
    target = (balancer_ip("cluster", family), 7000)
    if kind is FrontendKind.NODE_PORT:
        target = (lab.node("node-1").address(family), node_port("cluster", "echo-udp"))

    for _ in range(8):  # both backends, all but surely
        sent, received = lab.client.inside(
            lambda: backwards(lab.client.address(family), target, size)
        )
        assert sent == received


@FAMILIES
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_narrow_hop_behind_the_vip_is_discovered(lab: Lab, backend: str, family: int) -> None:
    """D48-D67, D57: PMTU discovery through a frontend, local (by the stack) and remote (by us)."""
    pod, node, client = lab.pod(backend), lab.node("node-1"), lab.client
    wide = node.run(["ip", "-o", f"-{family}", "route", "get", pod.address(family)]).stdout.split()
    device = wide[wide.index("dev") + 1]
    via = ["via", wide[wide.index("via") + 1]] if "via" in wide else []
    narrow = ["ip", f"-{family}", "route", "replace", pod.address(family), *via, "dev", device]
    address = balancer_ip("cluster", family)
    client.run(["ip", f"-{family}", "route", "flush", "cache"], check=True)
    done = node.run([*narrow, "mtu", "lock", str(HOP_MTU)])
    assert done.returncode == 0, done.stderr
    try:
        sent, received = client.inside(lambda: transfer((address, 7000), backend, 4 << 20))
        learned = client.run(["ip", f"-{family}", "route", "get", address]).stdout
    finally:
        node.run(narrow, check=True)

    assert sent == received
    assert f"mtu {HOP_MTU}" in learned
    client.run(["ip", f"-{family}", "route", "flush", "cache"], check=True)


@FAMILIES
def test_a_backend_that_begins_to_serve_is_reached_by_a_retransmitted_syn(
    lab: Lab, family: int
) -> None:
    """R44: dropped in silence while there is no local endpoint; nobody has to dial again."""
    lab.remove_endpoint("near-0")
    address = balancer_ip("local", family)
    eventually(lambda: is_silent(lab, address))
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(ask(lab.client, "TCP", address, 7000, timeout_s=10))
    )

    asking.start()
    lab.add_endpoint("near-0")
    asking.join()

    assert answers == [Answer("near-0", lab.client.address(family))]


def test_without_the_socket_layer_packets_carry_all_traffic_of_pods(lab: Lab) -> None:
    """Issue 3 §6: the same with the socket layer off."""
    agent = lab.agent("node-1")
    usual = agent.options
    agent.stop()
    agent.options = (*usual, "--no-socket-lb")
    agent.start()
    agent.wait_ready()
    try:
        pod = lab.pod("plain-1")
        for family in (4, 6):
            for protocol in ("TCP", "UDP"):
                address = cluster_ip("cluster", family)
                answers = ask_until(pod, protocol, address, 7000, set(BACKENDS))
                assert {answer.client for answer in answers} == {pod.address(family)}
        with Stream(pod, (cluster_ip("cluster", 4), 7000), held=5) as stream:
            assert set(stream.run_for(100).answers) == set(BACKENDS)
        assert stream.total.failures == ()
    finally:
        agent.stop()
        agent.options = usual
        agent.start()
        agent.wait_ready()


# ---- clients ---------------------------------------------------------------------------


def transfer(address: tuple[str, int], server: str, size: int) -> tuple[str, str]:
    """Echo `size` random bytes through a connection to this very server; both checksums."""
    connection = connect_to(address, server)
    sent = hashlib.sha256()

    def send() -> None:
        block = random.Random(size).randbytes(1 << 20)
        for number in range(0, size, len(block)):
            data = (number.to_bytes(8, "big") + block[8:])[: size - number]
            sent.update(data)
            connection.sendall(data)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    received, left = hashlib.sha256(), size
    with connection:
        while left:
            data = connection.recv(min(left, 1 << 18))
            assert data, f"closed with {left} bytes to come"
            received.update(data)
            left -= len(data)
        sending.join()
    return sent.hexdigest(), received.hexdigest()


def backwards(own: str, target: tuple[str, int], size: int) -> tuple[bytes, bytes]:
    """Ask an echo server with a datagram whose fragments leave in the wrong order."""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    data = random.Random(size).randbytes(size)
    with (
        socket.socket(family, socket.SOCK_DGRAM) as asking,
        socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sending,
    ):
        asking.bind((own, 0))
        asking.settimeout(3)
        client = Endpoint(packed(own), asking.getsockname()[1])
        to = Endpoint(packed(target[0]), target[1])
        segment = Segment(client, to, socket.IPPROTO_UDP, payload=data)
        for frame in reversed(fragments(segment, 1400, identity=client.port)):
            sending.sendto(frame[ETH_LENGTH:], (target[0], 0))
        return data, asking.recv(65536)


def connect_to(address: tuple[str, int], server: str) -> socket.socket:
    """A connection that this server happens to serve."""
    for _ in range(64):
        connection = socket.create_connection(address, timeout=10)
        connection.sendall(b"whoami")
        if connection.recv(100).split()[0].decode() == server:
            return connection
        connection.close()
    raise AssertionError(f"{server} never answers at {address}")


def is_silent(lab: Lab, address: str) -> bool:
    try:
        ask(lab.client, "TCP", address, 7000, timeout_s=0.2)
    except TimeoutError:
        return True
    return False
