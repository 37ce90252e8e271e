# SPDX-License-Identifier: Apache-2.0
"""D21-D31: fragments of both families, forward and back. Each frame is compared with the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import PORT_UNREACHABLE
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import Segment, fragments, icmp_error
from tests.support.packet_model.lab import HERE, REMOTE, SELF, V6, Addresses, Case
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import ETH_LENGTH, TCP, UDP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

DATA = bytes(range(256)) * 4


def datagram(talk: Dialogue) -> Segment:
    return Segment(talk.client, talk.frontend, talk.protocol, "PA", payload=DATA)


def reassembled(frames: list[bytes | None]) -> bytes:
    """The payload of IP, in the order of the offsets."""
    parts = []
    for frame in frames:
        assert frame is not None
        packet = parse(frame)
        assert isinstance(packet, Packet)
        offset = packet.fragment.offset if packet.fragment else 0
        parts.append((offset, packet.frame[packet.l4 : packet.end]))
    return b"".join(part for _, part in sorted(parts))


@pytest.mark.parametrize("case", [HERE, REMOTE], ids=["local", "remote"])
@pytest.mark.parametrize(
    "kind", [FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER], ids=lambda kind: kind.label
)
def test_d21_d22_d29_all_parts_go_the_way_of_the_first(
    bench: Bench, family: Addresses, case: Case, kind: FrontendKind
) -> None:
    """D21, D22, D28, D29, D99, R123: and the checksum of the whole is right at the backend."""
    talk = outside(bench, family, case, kind, UDP)
    segment = datagram(talk)

    outcomes = [talk.say_frame(part) for part in fragments(segment, 256)]

    assert len(outcomes) == 5
    expected = replace(segment, source=talk.shown_client, destination=talk.backend)
    header = 20 if family.family == 4 else 40
    first = parse(outcomes[0].frame or b"")
    assert isinstance(first, Packet)
    expected = replace(segment, source=first.client, destination=first.dialled)
    assert reassembled([o.frame for o in outcomes]) == bytes(expected.ip())[header:]


@pytest.mark.parametrize("case", [HERE, REMOTE], ids=["local", "remote"])
def test_replies_in_parts_are_restored(bench: Bench, family: Addresses, case: Case) -> None:
    """D22, D99: the backend's large answer."""
    talk = outside(bench, family, case, protocol=UDP)
    talk.establish()
    segment = Segment(talk.backend, talk.shown_client, UDP, payload=DATA)

    outcomes = [talk.answer_frame(part) for part in fragments(segment, 512)]

    header = 20 if family.family == 4 else 40
    expected = replace(segment, source=talk.frontend, destination=talk.client)
    assert reassembled([o.frame for o in outcomes]) == bytes(expected.ip())[header:]


@pytest.mark.parametrize("case", [REMOTE, SELF], ids=["other", "hairpin"])
def test_parts_from_a_pod(bench: Bench, family: Addresses, case: Case) -> None:
    """D22, R59, R123"""
    talk = from_pod(bench, family, case, protocol=UDP)

    outcomes = [talk.say_frame(part) for part in fragments(datagram(talk), 512)]

    assert all(outcome.frame is not None for outcome in outcomes)


def test_d25_an_orphan_never_reaches_a_backend(bench: Bench, family: Addresses) -> None:
    """D24, D25: nor does it go on at a VIP; at a node address it may be the node's own."""
    to_vip = outside(bench, family, HERE, protocol=UDP)
    to_node = outside(bench, family, HERE, FrontendKind.NODE_PORT, UDP)

    _, orphan, *_ = fragments(datagram(to_vip), 256)
    _, maybe_ours, *_ = fragments(datagram(to_node), 256)

    assert to_vip.say_frame(orphan).action is Action.DROP
    passed = to_node.say_frame(maybe_ours)
    assert (passed.action, passed.frame) == (Action.PASS, None)


def test_d24_what_a_first_part_left_expires(bench: Bench, family: Addresses) -> None:
    """D24"""
    talk = outside(bench, family, HERE, protocol=UDP)
    first, second, *_ = fragments(datagram(talk), 256)
    talk.say_frame(first)

    bench.wait(bench.model.world.lifetimes.fragment + 2)

    assert talk.say_frame(second).action is Action.DROP


def test_d26_a_reused_identification_belongs_to_the_newer_datagram(
    bench: Bench, family: Addresses
) -> None:
    """D26"""
    old, new = (outside(bench, family, REMOTE, protocol=UDP, port=p) for p in (40000, 40001))
    old_first, *_ = fragments(datagram(old), 256)
    new_first, new_second, *_ = fragments(datagram(new), 256)

    old.say_frame(old_first)
    new.say_frame(new_first)
    outcome = new.say_frame(new_second)

    assert outcome.action is Action.REDIRECT


def test_d27_a_tiny_first_part_is_dropped(bench: Bench, family: Addresses, protocol: int) -> None:
    """D27: RFC 1858, RFC 3128; TCP's flags must be in the first part, UDP's ports always are."""
    talk = outside(bench, family, HERE, protocol=protocol)

    outcomes = [talk.say_frame(part) for part in fragments(datagram(talk), 8)[:2]]

    if protocol == UDP:
        assert all(outcome.action is Action.PASS for outcome in outcomes)
    else:
        assert all(outcome.action is Action.DROP for outcome in outcomes)


def test_d27_a_part_over_the_header_is_dropped(bench: Bench, family: Addresses) -> None:
    """D27: offset 8 would rewrite the TCP flags after the check."""
    talk = outside(bench, family, HERE)
    talk.establish()
    first, *_ = fragments(datagram(talk), 64)
    _, over, *_ = fragments(datagram(talk), 8)

    talk.say_frame(first)

    assert talk.say_frame(over).action is Action.DROP


def test_d28_an_atomic_fragment_is_a_whole_packet(bench: Bench, protocol: int) -> None:
    """D28: RFC 6946; IPv4 has no such header."""
    talk = outside(bench, V6, HERE, protocol=protocol)
    (atomic,) = fragments(Segment(talk.client, talk.frontend, protocol), 4096)

    outcome = talk.say_frame(atomic)

    assert outcome.frame is not None
    assert not bench.tables.size("fragments")


def test_d31_an_error_that_quotes_a_later_part_guesses_no_port(
    bench: Bench, family: Addresses
) -> None:
    """D31"""
    talk = outside(bench, family, REMOTE, protocol=UDP)
    talk.establish()
    sent = Segment(talk.shown_client, talk.backend, UDP, payload=DATA)
    _, later, *_ = fragments(sent, 256)
    kind, code = PORT_UNREACHABLE[family.family]
    router = packed(family.router)
    to_node = icmp_error(
        router, talk.shown_client.address, later, kind=kind, code=code, quote_l4=16
    )
    to_vip = icmp_error(router, talk.frontend.address, later, kind=kind, code=code, quote_l4=16)

    passed = bench.send(Hook.UPLINK_IN, "up0", to_node)
    dropped = bench.send(Hook.UPLINK_IN, "up0", to_vip)

    assert (passed.action, passed.frame) == (Action.PASS, None)
    assert dropped.action is Action.DROP


def test_parts_for_others_leave_no_trace(bench: Bench, family: Addresses, protocol: int) -> None:
    """D18, D28"""
    client = Endpoint(packed(family.client), 4000)
    segment = Segment(client, Endpoint(packed(family.elsewhere), 53), protocol, payload=DATA)

    for part in fragments(segment, 256):
        outcome = bench.send(Hook.UPLINK_IN, "up0", part)
        assert (outcome.action, outcome.frame) == (Action.PASS, None)

    assert not any(bench.tables.sizes().values())


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "pod"])
def test_r40_parts_for_a_port_nobody_serves_pass(
    bench: Bench, family: Addresses, inside: bool
) -> None:
    """R40: an external address is not ours: what no Service defines passes, in parts too."""
    talk = (from_pod if inside else outside)(bench, family, HERE, protocol=UDP)
    for address in (family.lb(12), family.external.format(12), family.node):
        talk.frontend = Endpoint(packed(address), 9999)
        for part in fragments(datagram(talk), 256):
            hook, device = (Hook.POD_IN, "pod0") if inside else (Hook.UPLINK_IN, "up0")

            outcome = bench.send(hook, device, part)

            assert (outcome.action, outcome.frame) == (Action.PASS, None)


@pytest.mark.parametrize("length", [0, 1, 7])
def test_d7_a_first_part_with_an_impossible_udp_length(
    bench: Bench, family: Addresses, length: int
) -> None:
    """D7: as for whole packets; nothing is kept of it."""
    talk = outside(bench, family, HERE, protocol=UDP)
    first, *_ = fragments(datagram(talk), 256)
    at = ETH_LENGTH + (20 if family.family == 4 else 48) + 4

    talk.say_frame(first[:at] + length.to_bytes(2) + first[at + 2 :])

    assert not any(bench.tables.connections(Zone.OUTSIDE))


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_d136_the_first_part_of_a_reset_is_never_refused(
    bench: Bench, family: Addresses, flags: str
) -> None:
    """D21, D136, R37: RFC 1122: no answer to a RST, whole or not, and be it an ICMP error."""
    unknown = Endpoint(packed(family.cluster_ip.format(10)), 4444)
    client = Endpoint(packed(family.pods[0]), 40000)
    part, *_ = fragments(Segment(client, unknown, TCP, flags, payload=bytes(80)), 48)

    outcome = bench.send(Hook.POD_IN, "pod0", part)

    assert outcome.action is Action.DROP
    assert outcome.reasons == (Reason.UNKNOWN_PORT,)
