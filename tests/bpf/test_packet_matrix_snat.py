# SPDX-License-Identifier: Apache-2.0
"""D100-D115: source ports. The model refuses a port two live flows would share (D102)."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.invariants import no_tuple_is_shared
from tests.support.packet_model.lab import HERE, PORTS, REMOTE, SECOND, SELF, TWIN, V4, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

FEW = range(40000, 40064)
"""A port range small enough to fill."""


@pytest.fixture(scope="module")
def narrow_bench(as_root: None) -> Iterator[Bench]:
    with Bench.up(
        refusals_per_second=1 << 30, snat_port_first=FEW.start, snat_port_last=FEW.stop - 1
    ) as up:
        yield up


@pytest.fixture
def narrow(narrow_bench: Bench) -> Bench:
    narrow_bench.reset()
    narrow_bench.model.world.snat_ports = FEW
    return narrow_bench


def talks(
    bench: Bench, family: Addresses, count: int, protocol: int = TCP, port: int = 45000
) -> list[Dialogue]:
    """Different clients with one source port, to one backend."""
    network = packed(family.client)[:-2]
    made = []
    for number in range(count):
        talk = outside(bench, family, REMOTE, protocol=protocol)
        address = network + (256 + number).to_bytes(2)
        made.append(replace(talk, client=Endpoint(address, port)))
    return made


@pytest.mark.parametrize("port", [1024, 29999, 32768, 45000, 65535])
def test_d100_a_free_port_is_kept(
    bench: Bench, family: Addresses, protocol: int, port: int
) -> None:
    """D100"""
    talk = outside(bench, family, REMOTE, protocol=protocol, port=port)

    talk.say()

    assert talk.shown_client == Endpoint(packed(family.node), port)


def test_d101_d102_a_taken_port_is_exchanged(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D101, D102: every flow its own port, every answer to its own client."""
    made = talks(bench, family, 200, protocol)

    for talk in made:
        talk.establish()

    assert len({talk.shown_client for talk in made}) == 200
    assert no_tuple_is_shared(bench.model.tracker, bench.now) is None
    for talk in made:
        talk.answer("A", sequence=5001, acknowledgement=1001)


def test_d103_exhaustion_is_refused_at_once(
    narrow: Bench, family: Addresses, protocol: int
) -> None:
    """D103: with its own reason; who was there stays."""
    made = talks(narrow, family, len(FEW) + 40, protocol, port=FEW[0])
    outcomes = [talk.say() for talk in made]

    refused = [o for o in outcomes if Reason.SNAT_EXHAUSTED in o.reasons]
    served = [t for t, o in zip(made, outcomes, strict=True) if o.frame is not None]
    assert len(refused) >= 40
    for talk in served:
        assert talk.answer("SA", acknowledgement=1001).frame is not None


def test_d104_the_allocator_finds_most_of_a_range(narrow: Bench, family: Addresses) -> None:
    """D104: no failure below 75 % of the range, at most 1 of 100 below 90 % (small numbers)."""
    made = talks(narrow, family, int(len(FEW) * 0.75), port=FEW[0])

    outcomes = [talk.say() for talk in made]

    assert all(outcome.frame is not None for outcome in outcomes)


def test_d112_a_port_comes_back_when_its_flow_expires(narrow: Bench, family: Addresses) -> None:
    """D112: recycled in place, by lifetime."""
    first = talks(narrow, family, len(FEW) + 40, port=FEW[0])
    for talk in first:
        talk.say()

    narrow.wait(narrow.model.world.lifetimes.transitory + 2)
    late = talks(narrow, family, len(FEW) // 2, port=FEW[0])
    outcomes = [talk.say() for talk in late]

    assert all(outcome.frame is not None for outcome in outcomes)


@pytest.mark.parametrize("port", [30000, 30081, 32767, 1, 1023])
def test_d107_nodeports_and_system_ports_are_not_used(
    bench: Bench, family: Addresses, protocol: int, port: int
) -> None:
    """D107, R94: an answer must never look like a call of a NodePort."""
    talk = outside(bench, family, REMOTE, protocol=protocol, port=port)

    talk.establish()

    assert talk.shown_client.port in bench.model.world.snat_ports


def test_d107_a_local_backend_sees_the_client_s_own_port(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D107: the client's address is not ours, so its port is its own business."""
    talk = outside(bench, family, HERE, protocol=protocol, port=30081)

    talk.say()

    assert talk.shown_client == talk.client


def test_r94_answers_to_the_node_s_own_connections_pass(bench: Bench, family: Addresses) -> None:
    """R94: the node dialled somewhere from a port equal to a NodePort."""
    server = Endpoint(packed(family.elsewhere), 443)
    node = Endpoint(packed(family.node), REMOTE.node_port)

    for flags in ("SA", "A", "PA", "FA", "R"):
        outcome = bench.send(Hook.UPLINK_IN, "up0", Segment(server, node, flags=flags).frame())
        assert (outcome.action, outcome.frame) == (Action.PASS, None)
    assert not any(bench.tables.sizes().values())


def test_d108_only_the_backend_may_answer(bench: Bench, family: Addresses, protocol: int) -> None:
    """D108: endpoint-dependent filtering."""
    talk = outside(bench, family, REMOTE, protocol=protocol)
    talk.establish()
    for liar in (
        Endpoint(packed(family.elsewhere), talk.backend.port),
        replace(talk.backend, port=9),
    ):
        frame = Segment(liar, talk.shown_client, protocol, "A").frame()

        assert bench.send(Hook.UPLINK_IN, "up0", frame).frame is None


@pytest.mark.parametrize("lost", ["forward", "reverse"])
@pytest.mark.parametrize("path", ["remote", "local", "hairpin"])
def test_d109_either_half_is_rebuilt_with_the_same_port(
    bench: Bench, family: Addresses, protocol: int, lost: str, path: str
) -> None:
    """D109: evicted in the table, not in the model: to the client nothing happened."""
    if path == "hairpin":
        talk = from_pod(bench, family, SELF, protocol=protocol)
    else:
        talk = outside(bench, family, REMOTE if path == "remote" else HERE, protocol=protocol)
    talk.establish()
    zone = talk.flow.zone
    name = "conntrack" if lost == "forward" else "nat"

    bench.tables.clear(f"{name}_{zone}", f"{name}_new_{zone}")
    bench.wait(2)  # the halves look after each other once a second
    if lost == "reverse":
        talk.say("A", sequence=1001, acknowledgement=5001)
    answered = talk.answer("A", sequence=5001, acknowledgement=1001)
    said = talk.say("A", sequence=1001, acknowledgement=5001)

    assert answered.frame is not None
    assert said.frame is not None
    assert len(bench.tables.connections(zone)) == len(bench.tables.reply_tuples(zone)) == 1


def test_d114_the_source_is_of_the_interface_it_leaves_by(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D114, R60"""
    one, other = (outside(bench, family, case, protocol=protocol) for case in (REMOTE, SECOND))

    one.establish()
    other.establish()

    assert one.shown_client.address == packed(family.node)
    assert other.shown_client.address == packed(family.second_node)


def test_d115_exchanged_ports_are_not_in_sequence(bench: Bench, family: Addresses) -> None:
    """D115: RFC 6056."""
    made = talks(bench, family, 100)
    for talk in made:
        talk.say()

    ports = [talk.shown_client.port for talk in made[1:]]
    neighbours = sum(abs(a - b) <= 2 for a, b in itertools.pairwise(ports))
    assert neighbours < 5
    assert len(set(ports)) == len(ports)


def test_no_tuple_is_shared_between_vips(bench: Bench, family: Addresses, protocol: int) -> None:
    """D86, D102, R124: many clients, two VIPs, one backend."""
    made = []
    for number in range(60):
        for case in (REMOTE, TWIN):
            made.append(outside(bench, family, case, protocol=protocol, port=41000 + number))
    for talk in made:
        talk.establish()

    assert len({talk.shown_client for talk in made}) == len(made)
    kept = bench.tables.reply_tuples(Zone.OUTSIDE)
    assert len(kept) == len(made)


def test_d110_d111_both_halves_appear_together(bench: Bench, protocol: int) -> None:
    """D110, D111: after the first packet both are there; the race of CPUs is below the bench."""
    talk = outside(bench, V4, REMOTE, FrontendKind.NODE_PORT, protocol)

    talk.say()

    assert len(bench.tables.connections(Zone.OUTSIDE)) == 1
    assert len(bench.tables.reply_tuples(Zone.OUTSIDE)) == 1


@pytest.mark.parametrize("protocol_name", ["tcp", "udp"])
def test_d105_a_port_of_the_node_s_own_socket_is_left_to_it(
    bench: Bench, family: Addresses, protocol_name: str
) -> None:
    """D105: the node itself talks to that backend from that port; its answers stay its own."""
    protocol = TCP if protocol_name == "tcp" else UDP
    kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
    address_family = socket.AF_INET if family is V4 else socket.AF_INET6
    client = outside(bench, family, REMOTE, protocol=protocol, port=45678)
    backend = Endpoint(packed(family.remotes[0]), PORTS[protocol][1])
    own = Endpoint(packed(family.node), 45678)
    with socket.socket(address_family, kind) as node_socket:
        node_socket.setblocking(False)
        node_socket.bind((family.node, own.port))
        with contextlib.suppress(BlockingIOError):
            node_socket.connect((family.remotes[0], backend.port))
        bench.model.world.node_sockets.add((protocol, own, backend))

        client.establish()
        answer = bench.send(Hook.UPLINK_IN, "up0", Segment(backend, own, protocol, "SA").frame())

    assert client.shown_client.port != own.port
    assert (answer.action, answer.frame) == (Action.PASS, None)


def test_d106_an_answer_to_a_flow_of_ours_is_never_the_node_s(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D106: the node took the port later: the flow that had it keeps it, by its full tuple."""
    talk = outside(bench, family, REMOTE, protocol=protocol)
    talk.establish()
    other = Endpoint(packed(family.elsewhere), talk.backend.port)

    ours = talk.answer("A", sequence=5001, acknowledgement=1001)
    nodes = bench.send(
        Hook.UPLINK_IN, "up0", Segment(other, talk.shown_client, protocol, "SA").frame()
    )

    assert ours.action is Action.REDIRECT
    assert (nodes.action, nodes.frame) == (Action.PASS, None)
