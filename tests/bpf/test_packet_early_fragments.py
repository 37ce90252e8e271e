# SPDX-License-Identifier: Apache-2.0
"""D23: later fragments that come before their first one.

First through attached programs: up0-peer is the wire, what is sent there comes in by the
uplink, and what the node sends to a backend elsewhere comes out again. Then what is held and
what is not, in test runs beside the model.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.bpf.test_packet_wire import BEHIND, REMOTE, programs
from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import outside
from tests.support.packet_model.generate import Segment, fragments
from tests.support.packet_model.lab import HERE, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import ETH_LENGTH, UDP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from tests.support.packets import NODE_V4, NODE_V6, PacketLab
from tests.support.raw_devices import attached, first_frame, tunnel, wire
from tests.support.stacks import external_ip, node_port, service_port
from vipbee.abi import FrontendKind, Reason

NODE_PORT = 30080
NODE = {4: NODE_V4, 6: NODE_V6}
CLIENT = {4: "203.0.113.7", 6: "2001:db8:7::7"}
VIP = {4: "198.51.100.10", 6: "2001:db8:100::10"}
SIZES = {"two": (2000, 1448), "forty-five": (65000, 1448), "fifty-one": (400, 8)}
"""Bytes of a datagram, and of each of its fragments."""
MAX_HELD = 64  # of one datagram; MAX_EARLY in bpf/early_fragment.h


@pytest.fixture(scope="module")
def lab(as_root: None) -> Iterator[PacketLab]:
    with PacketLab.up() as up:
        yield up


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def version(request: pytest.FixtureRequest, lab: PacketLab) -> int:
    """The Service is there, with both kinds of frontends and a backend elsewhere."""
    chosen: int = request.param
    lab.clear_state()
    frontends = [
        node_port(chosen, NODE_PORT, UDP),
        external_ip(VIP[chosen], NODE_PORT, UDP),
    ]
    lab.program(service_port("dns", frontends, [REMOTE[chosen]], family=chosen))
    return chosen


@pytest.fixture
def far_end(lab: PacketLab) -> Iterator[socket.socket]:
    program = lab.object_file.program_fd("vipbee_uplink_in")
    with lab.inside(), attached(program, lab.ifindex["up0"]), wire("up0-peer") as opened:
        yield opened


# ---- through attached programs ---------------------------------------------------------------

ORDERS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "last first": lambda parts: parts[::-1],
    "first last": lambda parts: parts[1:] + parts[:1],
    "shuffled": lambda parts: random.Random(7).sample(parts, len(parts)),
}


@pytest.mark.parametrize("to", [NODE, VIP], ids=["node", "vip"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_d23_all_arrive_in_any_order(
    version: int, far_end: socket.socket, size: str, order: str, to: dict[int, str]
) -> None:
    """D23, D29: with SNAT; at a node's address a copy waits, at a VIP it is all there is."""
    parts = question(version, to[version], *SIZES[size])

    for frame in ORDERS[order](list(parts)):
        far_end.send(frame)

    assert payload_for(far_end, REMOTE[version], len(parts)) == data_of(SIZES[size][0])


@pytest.mark.parametrize("gap_s", [0.0, 1e-5, 1e-4, 1e-3, 0.2])
def test_d23_however_long_the_first_one_takes(
    version: int, far_end: socket.socket, gap_s: float
) -> None:
    """D23: within the lifetime of fragments; the time between them is what is tried."""
    parts = question(version, VIP[version], *SIZES["two"])

    for frame in reversed(parts):
        far_end.send(frame)
        time.sleep(gap_s)

    assert payload_for(far_end, REMOTE[version], len(parts)) == data_of(2000)


def test_d23_d26_two_datagrams_in_disorder_keep_apart(version: int, far_end: socket.socket) -> None:
    sizes = (3000, 3001)
    both = [question(version, VIP[version], size, 1000, port=40000 + size) for size in sizes]

    for pair in zip(*(parts[::-1] for parts in both), strict=True):
        for frame in pair:
            far_end.send(frame)
    found = received(far_end, REMOTE[version], sum(map(len, both)))

    assert {joined(parts) for parts in found.values()} == set(map(data_of, sizes))


def test_d23_replies_of_a_backend_elsewhere_too(version: int, far_end: socket.socket) -> None:
    """D22: they come to an address of the node, where SNAT had them sent."""
    far_end.send(question(version, VIP[version], 100, 1448)[0])
    backend = packed(REMOTE[version])
    sent = parse(first_frame(far_end, lambda frame: is_to(frame, backend)))
    assert isinstance(sent, Packet)
    answer = datagram(sent.dialled, sent.client, *SIZES["forty-five"])

    for frame in reversed(answer):
        far_end.send(frame)

    assert payload_for(far_end, CLIENT[version], len(answer)) == data_of(65000)


def test_d23_d160_on_a_device_without_ethernet_header(lab: PacketLab, version: int) -> None:
    client = Endpoint(packed(BEHIND[version]), 40000)
    parts = datagram(client, Endpoint(packed(NODE[version]), NODE_PORT), 4000, 1000)

    with lab.inside(), tunnel("tun0") as tun, wire("up0-peer") as far_end, programs(lab):
        for frame in reversed(parts):
            os.write(tun, frame[ETH_LENGTH:])
        arrived = payload_for(far_end, REMOTE[version], len(parts))

    assert arrived == data_of(4000)


def test_d23_after_a_flood_of_orphans(version: int, far_end: socket.socket) -> None:
    """D25: they take the places of those that waited, and no more than that."""
    for port in range(3000):
        _, orphan, *_ = question(version, VIP[version], 64, 32, port=port + 1)
        far_end.send(orphan)
    parts = question(version, VIP[version], *SIZES["forty-five"])

    for frame in reversed(parts):
        far_end.send(frame)

    assert payload_for(far_end, REMOTE[version], len(parts)) == data_of(65000)


_identities = iter(range(1, 1 << 16))


def datagram(source: Endpoint, destination: Endpoint, size: int, part: int) -> Sequence[bytes]:
    """Its frames in order, under an identification of their own."""
    segment = Segment(source, destination, UDP, payload=data_of(size))
    return fragments(segment, part, identity=next(_identities))


def question(version: int, to: str, size: int, part: int, port: int = 40000) -> Sequence[bytes]:
    client = Endpoint(packed(CLIENT[version]), port)
    return datagram(client, Endpoint(packed(to), NODE_PORT), size, part)


def data_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def is_to(frame: bytes, address: bytes) -> bool:
    packet = parse(frame)
    return isinstance(packet, Packet) and packet.destination == address


def payload_for(far_end: socket.socket, address: str, count: int) -> bytes:
    """Of the one datagram in `count` fragments that goes there."""
    (parts,) = received(far_end, address, count).values()
    return joined(parts)


def joined(parts: dict[int, bytes]) -> bytes:
    return b"".join(parts[offset] for offset in sorted(parts))[8:]


def received(far_end: socket.socket, address: str, count: int) -> dict[int, dict[int, bytes]]:
    """Identification → offset → data, of `count` fragments that go there."""
    found: dict[int, dict[int, bytes]] = {}
    for _ in range(count):
        packet = parse(first_frame(far_end, lambda frame: is_to(frame, packed(address))))
        assert isinstance(packet, Packet)
        assert packet.fragment is not None
        parts = found.setdefault(packet.fragment.identity, {})
        parts[packet.fragment.offset] = packet.frame[packet.l4 : packet.end]
    return found


# ---- beside the model ------------------------------------------------------------------------


def in_parts(bench: Bench, family: Addresses, size: int, part: int) -> tuple[bytes, ...]:
    talk = outside(bench, family, HERE, protocol=UDP)
    return fragments(Segment(talk.client, talk.frontend, UDP, payload=data_of(size)), part)


def test_d23_what_is_held_goes_on_as_it_came(bench: Bench, family: Addresses) -> None:
    """The first one is translated as ever; the other is in front of the hook again, unchanged."""
    first, last = in_parts(bench, family, 2000, 1448)
    with wire("up0") as device:
        held = bench.send(Hook.UPLINK_IN, "up0", last)
        passed = bench.send(Hook.UPLINK_IN, "up0", first)
        again = first_frame(device, lambda frame: frame[12:14] == first[12:14])

    assert (held.action, held.reasons) == (Action.DROP, (Reason.FRAGMENT_HELD,))
    assert passed.action is Action.PASS
    assert passed.frame is not None
    assert again == last
    assert bench.tables.early_fragments() == []


def test_d23_d24_what_is_held_expires(bench: Bench, family: Addresses) -> None:
    first, last = in_parts(bench, family, 2000, 1448)
    bench.send(Hook.UPLINK_IN, "up0", last)

    bench.wait(bench.model.world.lifetimes.fragment + 2)
    bench.send(Hook.UPLINK_IN, "up0", first)

    assert len(bench.tables.early_fragments()) == 1  # nobody took it


def test_d23_a_fragment_too_long_to_be_kept_is_dropped(bench: Bench, family: Addresses) -> None:
    """Of a network with jumbo frames."""
    _, later, *_ = in_parts(bench, family, 6000, 2400)

    assert bench.run(Hook.UPLINK_IN, "up0", later).reasons == {Reason.FRAGMENT_UNKNOWN: 1}
    assert bench.tables.early_fragments() == []


def test_d23_so_many_of_one_datagram_are_held(bench: Bench, family: Addresses) -> None:
    _, *later = in_parts(bench, family, 8 * (MAX_HELD + 10), 8)

    counted = [bench.run(Hook.UPLINK_IN, "up0", part).reasons for part in later]

    assert counted[:MAX_HELD] == [{Reason.FRAGMENT_HELD: 1}] * MAX_HELD
    assert counted[MAX_HELD:] == [{Reason.FRAGMENT_UNKNOWN: 1}] * len(later[MAX_HELD:])


@pytest.mark.parametrize("port", [22, 31999, 40000], ids=["low", "no NodePort", "ephemeral"])
def test_d23_the_node_s_own_datagrams_are_not_touched(
    bench: Bench, family: Addresses, port: int
) -> None:
    """In order nothing is kept of them; in disorder a copy, which nobody ever uses."""
    talk = outside(bench, family, HERE, FrontendKind.NODE_PORT, UDP)
    node = Endpoint(talk.frontend.address, port)
    segment = Segment(talk.client, node, UDP, payload=data_of(2000))
    first, last = fragments(segment, 1448)
    late_first, late_last = fragments(segment, 1448, identity=0x4321)

    in_order = [bench.run(Hook.UPLINK_IN, "up0", part) for part in (first, last)]
    assert bench.tables.early_fragments() == []
    in_disorder = [bench.run(Hook.UPLINK_IN, "up0", part) for part in (late_last, late_first)]

    parts = (first, last, late_last, late_first)
    assert [(o.action, o.frame) for o in (*in_order, *in_disorder)] == [
        (Action.PASS, part) for part in parts
    ]
    assert len(bench.tables.early_fragments()) == 1
