# SPDX-License-Identifier: Apache-2.0
"""Sockets of the node that dial somebody who is no VIP: D106 and, for UDP, R94.

The model (packet_model/node_sockets.py) checks every verdict and byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import Dialogue, from_node, from_pod, outside
from tests.support.packet_model.generate import Segment, fragments, icmp_error
from tests.support.packet_model.lab import HERE, REMOTE, SELF, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action, Outcome
from tests.support.packet_model.wire import TCP, UDP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed

PORT = 45678


@dataclass
class Own:
    """A socket of the node and a server it talks to without a Service."""

    bench: Bench
    local: Endpoint
    peer: Endpoint
    protocol: int
    device: str = "up0"
    way_in: Hook = Hook.UPLINK_IN
    way_out: Hook = Hook.UPLINK_OUT
    shown: Endpoint | None = field(default=None)

    def say(self, flags: str = "S", **changes: object) -> Outcome:
        segment = Segment(self.local, self.peer, self.protocol, flags=flags)
        return self.say_frame(replace(segment, **changes).frame())  # type: ignore[arg-type]

    def say_frame(self, frame: bytes) -> Outcome:
        outcome = self.bench.send(self.way_out, self.device, frame, own=True)
        seen = parse(outcome.frame or frame)
        assert isinstance(seen, Packet)
        if not seen.is_later_fragment:
            self.shown = seen.client
        return outcome

    def answer(self, flags: str = "SA", **changes: object) -> bytes | None:
        """The frame that the socket gets; None: unchanged."""
        assert self.shown is not None
        segment = Segment(self.peer, self.shown, self.protocol, flags=flags)
        frame = replace(segment, **changes).frame()  # type: ignore[arg-type]
        outcome = self.bench.send(self.way_in, self.device, frame)
        assert outcome.action is Action.PASS
        if outcome.frame is not None:
            expected = replace(segment, destination=self.local, **changes)  # type: ignore[arg-type]
            assert outcome.frame == expected.frame()
        return outcome.frame

    def establish(self) -> None:
        self.say("S", sequence=1000)
        self.answer("SA", sequence=5000, acknowledgement=1001)
        self.say("A", sequence=1001, acknowledgement=5001)


def beside(bench: Bench, talk: Dialogue) -> Own:
    """A socket with just the tuple that SNAT has given to this dialogue."""
    return Own(bench, talk.shown_client, talk.backend, talk.protocol)


def test_d106_a_socket_on_a_port_that_snat_has_gets_its_replies(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D106: both connections live, whatever ends first; the first keeps its port."""
    talk = outside(bench, family, REMOTE, protocol=protocol, port=PORT)
    talk.establish()
    own = beside(bench, talk)

    own.establish()

    assert own.shown != own.local
    assert own.answer("A", sequence=5001, acknowledgement=1001) is not None
    assert talk.answer("A", sequence=5001, acknowledgement=1001).action is Action.REDIRECT
    talk.close()
    bench.wait(100)
    own.say("A", sequence=1001, acknowledgement=5001)
    bench.wait(100)
    assert own.answer("A", sequence=5001, acknowledgement=1001) is not None
    assert own.say("PA", sequence=1001, acknowledgement=5001).frame is not None


def test_d106_a_socket_beside_a_program_s_connection_to_a_vip(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D106, D85: the node's own client of the VIP has the tuple."""
    talk = from_node(bench, family, REMOTE, protocol=protocol, port=PORT)
    talk.establish()
    own = beside(bench, talk)

    own.establish()

    assert own.shown != own.local
    assert talk.answer("A", sequence=5001, acknowledgement=1001).action is Action.PASS


def test_d106_a_socket_that_dials_a_pod_which_talks_to_itself(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D106, R59: the hairpin has taken an address of the node towards that pod."""
    talk = from_pod(bench, family, SELF, protocol=protocol, port=PORT)
    talk.establish()
    own = beside(bench, talk)
    own.device, own.way_in, own.way_out = "pod0", Hook.POD_IN, Hook.POD_OUT

    own.establish()

    assert own.shown != own.local


def test_d106_a_free_tuple_is_left_alone(bench: Bench, family: Addresses, protocol: int) -> None:
    """D106: another port, another server, or the same tuple when the connection is over."""
    talk = outside(bench, family, REMOTE, protocol=protocol, port=PORT)
    talk.establish()
    own = beside(bench, talk)
    for other in (
        replace(own, local=replace(own.local, port=PORT + 1)),
        replace(own, peer=Endpoint(packed(family.elsewhere), own.peer.port)),
    ):
        before = bench.tables.sizes()
        assert other.say().frame is None
        assert other.answer() is None
        assert bench.tables.sizes() == before

    talk.close()
    bench.wait(8000)

    assert own.say().frame is None
    assert own.answer() is None


def test_d106_a_port_used_again_is_its_own_once_the_tuple_is_free(
    bench: Bench, family: Addresses
) -> None:
    """D75: nothing of the connection that was moved may touch the next one."""
    talk = outside(bench, family, REMOTE, port=PORT)
    talk.establish()
    own = beside(bench, talk)
    own.establish()
    for side in (talk, own):
        side.say("FA", sequence=1001, acknowledgement=5001)
        side.answer("FA", sequence=5001, acknowledgement=1002)
        side.say("A", sequence=1002, acknowledgement=5002)
    bench.wait(200)
    own.say("A", sequence=1002, acknowledgement=5002)  # younger than the other
    bench.wait(100)

    for flags in ("S", "A", "PA"):
        assert own.say(flags).frame is None


def test_d106_datagrams_in_parts_keep_their_port(bench: Bench, family: Addresses) -> None:
    """D22, D106."""
    talk = outside(bench, family, REMOTE, protocol=UDP, port=PORT)
    talk.establish()
    own = beside(bench, talk)
    whole = Segment(own.local, own.peer, UDP, payload=bytes(range(200)))

    for part in fragments(whole, 64):
        own.say_frame(part)

    assert own.shown != own.local


def test_d106_errors_reach_the_socket(bench: Bench, family: Addresses, protocol: int) -> None:
    """D48, D106: quoting the packet as it was sent."""
    talk = outside(bench, family, REMOTE, protocol=protocol, port=PORT)
    talk.establish()
    own = beside(bench, talk)
    own.establish()
    assert own.shown is not None
    kind, code = (3, 1) if family.family == 4 else (1, 0)
    quoted = Segment(own.shown, own.peer, protocol).frame()

    error = icmp_error(packed(family.router), own.local.address, quoted, kind=kind, code=code)
    outcome = bench.send(Hook.UPLINK_IN, "up0", error)

    assert (outcome.action, outcome.frame is None) == (Action.PASS, False)


def test_what_is_forwarded_is_not_the_node_s(bench: Bench, family: Addresses) -> None:
    """D106: a packet that a device brought in is nobody's socket's."""
    talk = outside(bench, family, REMOTE, port=PORT)
    talk.establish()
    syn = Segment(talk.shown_client, talk.backend, TCP).frame()

    outcome = bench.send(Hook.UPLINK_OUT, "up0", syn)

    assert (outcome.action, outcome.frame) == (Action.PASS, None)


@pytest.mark.parametrize("where", ["outside", "pod", "own"])
def test_r94_answers_to_datagrams_from_a_nodeport_number_pass(
    bench: Bench, family: Addresses, where: str
) -> None:
    """R94, D107: a socket of the node that was bound there; nobody else's datagrams pass."""
    local = Endpoint(packed(family.node), HERE.node_port)
    peer, device = Endpoint(packed(family.elsewhere), 5300), "up0"
    if where == "pod":
        peer, device = Endpoint(packed(family.pods[0]), 5300), "pod0"
    if where == "own":
        peer, device = Endpoint(packed(family.node), 5300), "lo"
    way_in = {"up0": Hook.UPLINK_IN, "pod0": Hook.POD_IN, "lo": Hook.UPLINK_OUT}[device]
    way_out = Hook.POD_OUT if device == "pod0" else Hook.UPLINK_OUT
    own = Own(bench, local, peer, UDP, device, way_in, way_out)
    stranger = replace(own, peer=replace(peer, port=5301))

    assert own.say().frame is None
    assert own.answer() is None
    frame = Segment(stranger.peer, local, UDP).frame()
    assert bench.send(way_in, device, frame).frame is not None

    bench.wait(121)
    late = bench.send(way_in, device, Segment(peer, local, UDP).frame())
    assert late.frame is not None


def test_r94_a_server_on_a_nodeport_number_answers_its_clients(
    bench: Bench, family: Addresses
) -> None:
    """R94: also where no Service has the number, and then without a trace."""
    for number in (HERE.node_port, 31999):
        before = bench.tables.sizes()
        server = Endpoint(packed(family.node), number)
        own = Own(bench, server, Endpoint(packed(family.client), 999), UDP)

        outcome = own.say()

        assert (outcome.action, outcome.frame) == (Action.PASS, None)
        assert (bench.tables.sizes() == before) == (number == 31999)
