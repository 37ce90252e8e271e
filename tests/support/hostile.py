# SPDX-License-Identifier: Apache-2.0
"""What strangers try, and whether they got it: each function says if harm was done.

The C alone is asked (`Bench.run`); the model only follows while a connection is set up.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import replace

from scapy.layers import inet
from scapy.packet import Raw

from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import PORT_UNREACHABLE
from tests.support.packet_model.dialogue import Dialogue, from_node, from_pod, outside
from tests.support.packet_model.generate import Segment, echo, fragments, framed, icmp_error
from tests.support.packet_model.lab import (
    HERE,
    NOBODY,
    PORTS,
    RANGED,
    REMOTE,
    TWIN,
    V4,
    V6,
    dialled,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action, Observed
from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import ETH_LENGTH, TCP, UDP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

CLIENT = Endpoint(packed(V4.client), 40000)
VIP = dialled(V4, REMOTE, FrontendKind.LOAD_BALANCER, TCP)
VIP_HERE = dialled(V4, HERE, FrontendKind.LOAD_BALANCER, TCP)
CLUSTER_IP = packed(V4.cluster_ip.format(REMOTE.number))
ROUTER = packed(V4.router)

SMALL = 2048
"""Entries of each table of unfinished connections, where a flood is to fill one."""


def arrives(bench: Bench, frame: bytes) -> Observed:
    return bench.run(Hook.UPLINK_IN, "up0", frame)


def opened(bench: Bench) -> bool:
    return bool(bench.tables.connections(Zone.OUTSIDE))


def read(observed: Observed) -> Packet:
    packet = parse(observed.frame)
    assert isinstance(packet, Packet)
    return packet


def goes_on(bench: Bench, talk: Dialogue) -> bool:
    """Does the client's next segment still reach a backend?"""
    segment = Segment(talk.client, talk.frontend, TCP, "PA", 1001, 5001, b"?")
    return arrives(bench, segment.frame()).action is not Action.DROP


def established(bench: Bench, case: object = HERE) -> Dialogue:
    talk = outside(bench, V4, HERE if case is HERE else REMOTE)
    talk.establish()
    talk.answer("A", sequence=5001, acknowledgement=1001)
    return talk


def flood(bench: Bench, count: int) -> None:
    """SYNs from as many addresses, each twice: what was used again is evicted last (D117)."""
    frame = bytearray(Segment(CLIENT, VIP).frame())
    for number in range(count):
        struct.pack_into("!H", frame, ETH_LENGTH + 14, 0x1000 + number)
        arrives(bench, bytes(frame))
        arrives(bench, bytes(frame))


# ---- who may begin -----------------------------------------------------------------------


def a_stray_segment_opens_a_connection(bench: Bench) -> bool:
    arrives(bench, Segment(CLIENT, VIP, flags="A").frame())
    return opened(bench)


def nobody_s_address_opens_a_connection(bench: Bench) -> bool:
    arrives(bench, Segment(Endpoint(packed("127.0.0.1"), 40000), VIP).frame())
    return opened(bench)


def the_node_s_address_opens_a_connection(bench: Bench) -> bool:
    arrives(bench, Segment(Endpoint(packed(V4.node), 40000), VIP).frame())
    return opened(bench)


def a_connection_of_the_node_s_is_taken_part_in(bench: Bench) -> bool:
    talk = from_node(bench, V4, REMOTE)
    talk.establish()
    return goes_on(bench, talk)


def loopback_is_reached(bench: Bench) -> bool:
    to = Endpoint(packed("127.0.0.1"), 10250)
    return arrives(bench, Segment(CLIENT, to).frame()).action is Action.PASS


def an_ipv6_packet_reaches_an_ipv4_vip(bench: Bench) -> bool:
    """The mapped form of its address, which only sockets have."""
    mapped = bytes(10) + b"\xff\xff"
    stranger = Endpoint(packed(V6.client), 40000)
    arrives(bench, Segment(stranger, replace(VIP, address=mapped + VIP.address)).frame())
    return opened(bench)


def a_cluster_ip_is_reached(bench: Bench) -> bool:
    arrives(bench, Segment(CLIENT, Endpoint(CLUSTER_IP, PORTS[TCP][0])).frame())
    return opened(bench)


def an_excluded_client_is_served(bench: Bench) -> bool:
    to = dialled(V4, RANGED, FrontendKind.LOAD_BALANCER, TCP)
    arrives(bench, Segment(Endpoint(packed(V4.other_client), 40000), to).frame())
    return opened(bench)


def a_packet_longer_than_its_frame_opens_a_connection(bench: Bench) -> bool:
    frame = bytearray(Segment(CLIENT, VIP).frame())
    struct.pack_into("!H", frame, ETH_LENGTH + 2, 1000)
    arrives(bench, bytes(frame))
    return opened(bench)


def padding_opens_a_connection(bench: Bench) -> bool:
    """The TCP header ends after the ports; its flags are read from behind the packet."""
    frame = bytearray(Segment(CLIENT, VIP).frame())
    struct.pack_into("!H", frame, ETH_LENGTH + 2, 24)
    arrives(bench, bytes(frame))
    return opened(bench)


def another_protocol_reaches_the_stack(bench: Bench) -> bool:
    ends = {"src": V4.client, "dst": V4.cluster_ip.format(REMOTE.number)}
    frame = framed(inet.IP(**ends, proto=132) / Raw(bytes(20)))
    return arrives(bench, frame).action is Action.PASS


# ---- parts ---------------------------------------------------------------------------------


def a_part_rewrites_flags_that_were_judged(bench: Bench) -> bool:
    segment = Segment(CLIENT, VIP_HERE, payload=bytes(80))
    first, *_ = fragments(segment, 64)
    _, over, *_ = fragments(segment, 8)
    arrives(bench, first)
    return arrives(bench, over).action is not Action.DROP


def a_part_without_its_first_reaches_the_stack(bench: Bench) -> bool:
    _, later, *_ = fragments(Segment(CLIENT, VIP, payload=bytes(80)), 48)
    return arrives(bench, later).action is Action.PASS


def a_part_is_taken_for_an_old_datagram_s(bench: Bench) -> bool:
    first, later, *_ = fragments(Segment(CLIENT, VIP, UDP, payload=bytes(80)), 48)
    arrives(bench, first)
    bench.wait(60)
    return arrives(bench, later).action is not Action.DROP


# ---- connections of others -------------------------------------------------------------------


def a_blind_reset_ends_a_connection(bench: Bench) -> bool:
    talk = established(bench)
    segment = Segment(talk.client, talk.frontend, flags="R", sequence=1001 + 0x40000000)
    arrives(bench, segment.frame())
    bench.wait(60)
    return not goes_on(bench, talk)


def a_reset_ends_a_connection_that_goes_on(bench: Bench) -> bool:
    talk = established(bench)
    for flags in ("R", "A"):
        back = Segment(talk.backend, talk.client, TCP, flags, 5001, 1001)
        bench.run(Hook.UPLINK_OUT, "up0", back.frame())
    bench.wait(60)
    return not goes_on(bench, talk)


def a_segment_follows_a_connection_long_over(bench: Bench) -> bool:
    talk = established(bench)
    talk.close()
    bench.wait(300)
    return goes_on(bench, talk)


def a_flow_follows_a_backend_that_is_another_by_now(bench: Bench) -> bool:
    talk = outside(bench, V4, HERE, protocol=UDP)
    talk.establish()
    world, old = bench.model.world, talk.backend
    (number,) = (n for n, b in world.backends.items() if b.id == talk.flow.backend_id)
    mine = world.backends[number]
    world.backends[number] = replace(
        mine, address=packed(V4.pods[0]), generation=mine.generation + 1
    )
    bench.tables.program(world)
    datagram = Segment(talk.client, talk.frontend, UDP, payload=b"?").frame()
    return read(arrives(bench, datagram)).dialled == old


def a_direct_connection_is_shown_as_the_vip(bench: Bench) -> bool:
    talk = established(bench)
    talk.close()
    answer = Segment(talk.backend, talk.client, TCP, "SA", 7000, 9001).frame()
    return bench.run(Hook.UPLINK_OUT, "up0", answer).frame != answer


def clients_alone_fill_the_established_table(bench: Bench) -> bool:
    for flags in ("S", "A"):
        arrives(bench, Segment(CLIENT, VIP, flags=flags).frame())
    return bool(bench.tables.size("conntrack_outside"))


def datagrams_alone_fill_the_established_table(bench: Bench) -> bool:
    to = dialled(V4, REMOTE, FrontendKind.LOAD_BALANCER, UDP)
    for _ in range(3):
        arrives(bench, Segment(CLIENT, to, UDP).frame())
    return bool(bench.tables.size("conntrack_outside"))


def a_flood_costs_an_established_connection(bench: Bench) -> bool:
    talks = [outside(bench, V4, HERE, port=port) for port in range(50000, 50050)]
    for talk in talks:
        talk.establish()
    flood(bench, 3 * SMALL)
    return not all(goes_on(bench, talk) for talk in talks)


def a_flood_from_outside_costs_a_pod_s_connection(bench: Bench) -> bool:
    talk = from_pod(bench, V4, REMOTE)
    talk.say()
    flood(bench, 3 * SMALL)
    answer = Segment(talk.backend, talk.client, TCP, "SA", 5000, 1001).frame()
    return bench.run(Hook.POD_OUT, "pod0", answer).frame == answer


# ---- source ports ------------------------------------------------------------------------------


def two_connections_share_a_port(bench: Bench) -> bool:
    seen = []
    for case in (REMOTE, TWIN):
        to = dialled(V4, case, FrontendKind.LOAD_BALANCER, TCP)
        seen.append(read(arrives(bench, Segment(CLIENT, to).frame())))
    return len({(packet.client, packet.dialled) for packet in seen}) == 1


def the_node_loses_its_own_answers(bench: Bench) -> bool:
    with socket.socket() as own:
        own.setblocking(False)
        own.bind((V4.node, 40000))
        with contextlib.suppress(BlockingIOError):
            own.connect((V4.remotes[0], PORTS[TCP][1]))
        arrives(bench, Segment(CLIENT, VIP).frame())
        backend = Endpoint(packed(V4.remotes[0]), PORTS[TCP][1])
        answer = Segment(backend, Endpoint(packed(V4.node), 40000), TCP, "SA").frame()
        return arrives(bench, answer).action is not Action.PASS


def an_answer_is_taken_for_a_nodeport_s(bench: Bench) -> bool:
    client = Endpoint(CLIENT.address, NOBODY.node_port)
    sent = read(arrives(bench, Segment(client, VIP).frame()))
    answer = Segment(sent.dialled, sent.client, TCP, "SA", 5000, 1001).frame()
    return arrives(bench, answer).action is not Action.REDIRECT


# ---- answers, errors, loops ---------------------------------------------------------------------


def refusals_have_no_limit(bench: Bench) -> bool:
    """10 a second allowed; the second may change once or twice meanwhile."""
    to = dialled(V4, NOBODY, FrontendKind.LOAD_BALANCER, TCP)
    frames = [Segment(replace(CLIENT, port=port), to).frame() for port in range(41000, 41200)]
    answers = [arrives(bench, frame).action for frame in frames]
    return answers.count(Action.REDIRECT) > 100


def a_reset_is_answered(bench: Bench) -> bool:
    unknown = Endpoint(CLUSTER_IP, 4444)
    frame = Segment(Endpoint(packed(V4.pods[0]), 40000), unknown, flags="R").frame()
    return bench.run(Hook.POD_IN, "pod0", frame).action is Action.REDIRECT


def a_new_packet_leaves_with_ttl_0(bench: Bench) -> bool:
    sent = read(arrives(bench, Segment(CLIENT, VIP, ttl=1).frame()))
    return sent.ttl == 0


def a_packet_leaves_with_ttl_0(bench: Bench) -> bool:
    talk = established(bench, REMOTE)
    segment = Segment(talk.client, talk.frontend, TCP, "A", 1001, 5001, ttl=1)
    return read(arrives(bench, segment.frame())).ttl == 0


def _error(talk: Dialogue, destination: bytes) -> bytes:
    quoted = Segment(talk.shown_client, talk.backend, TCP, "PA", 1001, 5001).frame()
    kind, code = PORT_UNREACHABLE[4]
    return icmp_error(ROUTER, destination, quoted, kind=kind, code=code)


def a_broken_error_reaches_the_client(bench: Bench) -> bool:
    talk = established(bench, REMOTE)
    frame = bytearray(_error(talk, talk.shown_client.address))
    frame[ETH_LENGTH + 22] ^= 0x40
    return arrives(bench, bytes(frame)).action is Action.REDIRECT


def an_error_about_nothing_reaches_the_stack(bench: Bench) -> bool:
    quoted = Segment(VIP, replace(CLIENT, port=6), TCP, "PA").frame()
    kind, code = PORT_UNREACHABLE[4]
    frame = icmp_error(ROUTER, VIP.address, quoted, kind=kind, code=code)
    return arrives(bench, frame).action is Action.PASS


def an_error_about_a_later_part_is_believed(bench: Bench) -> bool:
    """Its first four bytes are payload that happens to look like the ports."""
    talk = established(bench, REMOTE)
    frame = bytearray(_error(talk, talk.shown_client.address))
    inner = ETH_LENGTH + 28
    struct.pack_into("!H", frame, inner + 6, 185)
    (checksum,) = struct.unpack_from("!H", frame, ETH_LENGTH + 22)
    struct.pack_into("!H", frame, ETH_LENGTH + 22, checksum - 185)
    return arrives(bench, bytes(frame)).action is Action.REDIRECT


def an_echo_runs_in_circles(bench: Bench) -> bool:
    return arrives(bench, echo(CLIENT.address, CLUSTER_IP)).action is Action.PASS


def an_echo_without_header_is_answered(bench: Bench) -> bool:
    frame = bytearray(echo(CLIENT.address, VIP.address))
    struct.pack_into("!H", frame, ETH_LENGTH + 2, 24)
    return arrives(bench, bytes(frame)).action is not Action.DROP


def a_path_that_is_too_narrow_is_kept_from_the_client(bench: Bench) -> bool:
    large = Segment(CLIENT, VIP, payload=bytes(1500)).frame()
    return Reason.TOO_BIG not in arrives(bench, large).reasons
