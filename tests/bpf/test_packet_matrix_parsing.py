# SPDX-License-Identifier: Apache-2.0
"""D1-D20: malformed, cut, odd and foreign packets. `bench.send` compares with the model too."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from scapy.layers import inet, inet6
from scapy.packet import Raw

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import from_pod, outside
from tests.support.packet_model.generate import PAYLOAD, Segment, echo, ethernet, framed
from tests.support.packet_model.lab import ANY, HERE, REMOTE, V4, V6, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action, Outcome, show
from tests.support.packet_model.wire import ETH_LENGTH, TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

L3 = ETH_LENGTH


def syn(bench: Bench, family: Addresses, protocol: int = TCP, port: int = 40000) -> bytes:
    talk = outside(bench, family, HERE, protocol=protocol, port=port)
    return Segment(talk.client, talk.frontend, protocol).frame()


def patched(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def send(bench: Bench, frame: bytes) -> Outcome:
    return bench.send(Hook.UPLINK_IN, "up0", frame)


def untouched(bench: Bench) -> bool:
    return not any(bench.tables.sizes().values())


@pytest.mark.parametrize("length", [0, 1, 4])
def test_d1_header_length_below_the_minimum(bench: Bench, length: int) -> None:
    """D1"""
    outcome = send(bench, patched(syn(bench, V4), L3, bytes([0x40 | length])))

    assert (outcome.action, outcome.reasons) == (Action.DROP, (Reason.MALFORMED,))


def test_d2_header_longer_than_the_packet(bench: Bench) -> None:
    """D2"""
    outcome = send(bench, patched(syn(bench, V4), L3, b"\x4f"))

    assert outcome.reasons == (Reason.MALFORMED,)


@pytest.mark.parametrize("l4_bytes", [0, 1, 7, 8, 13, 19])
def test_d3_d4_tcp_header_cut(bench: Bench, family: Addresses, l4_bytes: int) -> None:
    """D3, D4: the lengths in the IP header agree with the cut."""
    header = 20 if family.family == 4 else 40
    frame = syn(bench, family)[: L3 + header + l4_bytes]
    length = header + l4_bytes if family.family == 4 else l4_bytes
    frame = patched(frame, L3 + (2 if family.family == 4 else 4), struct.pack("!H", length))

    outcome = send(bench, frame)

    assert outcome.reasons == (Reason.MALFORMED,)
    assert untouched(bench)


@pytest.mark.parametrize("l4_bytes", [0, 4, 7])
def test_d3_udp_header_cut(bench: Bench, family: Addresses, l4_bytes: int) -> None:
    """D3"""
    header = 20 if family.family == 4 else 40
    frame = syn(bench, family, UDP)[: L3 + header + l4_bytes]
    length = header + l4_bytes if family.family == 4 else l4_bytes
    frame = patched(frame, L3 + (2 if family.family == 4 else 4), struct.pack("!H", length))

    assert send(bench, frame).reasons == (Reason.MALFORMED,)


@pytest.mark.parametrize("address", ["vip", "node"])
@pytest.mark.parametrize("l4_bytes", [0, 1, 4, 7])
def test_d3_echo_request_cut(bench: Bench, family: Addresses, l4_bytes: int, address: str) -> None:
    """D3: less than an ICMP header is neither answered nor handed on, padded or not."""
    destination = packed(family.lb(10) if address == "vip" else family.node)
    header = 20 if family.family == 4 else 40
    whole = echo(packed(family.client), destination)
    length = header + l4_bytes if family.family == 4 else l4_bytes
    whole = patched(whole, L3 + (2 if family.family == 4 else 4), struct.pack("!H", length))

    for frame in (whole[: L3 + header + l4_bytes], whole):
        assert send(bench, frame).reasons == (Reason.MALFORMED,)


@pytest.mark.parametrize("offset", [0, 4, 15])
def test_d5_tcp_data_offset_lies(bench: Bench, family: Addresses, offset: int) -> None:
    """D5: never translated, whichever verdict."""
    at = L3 + (20 if family.family == 4 else 40) + 12

    send(bench, patched(syn(bench, family), at, bytes([offset << 4])))

    assert untouched(bench)


@pytest.mark.parametrize("total", [0, 19, 41, 1500, 65535])
def test_d6_total_length_lies(bench: Bench, total: int) -> None:
    """D6"""
    outcome = send(bench, patched(syn(bench, V4), L3 + 2, struct.pack("!H", total)))

    assert outcome.reasons == (Reason.MALFORMED,)


def test_d6_payload_length_lies(bench: Bench) -> None:
    """D6, the IPv6 twin"""
    assert send(bench, patched(syn(bench, V6), L3 + 4, b"\xff\xff")).action is Action.DROP


def test_d6_ethernet_padding_is_ignored_and_kept(bench: Bench, protocol: int) -> None:
    """D6: a frame padded to 60 bytes and more."""
    frame = syn(bench, V4, protocol)

    outcome = send(bench, frame + bytes(range(1, 19)))

    assert outcome.action is Action.PASS
    assert outcome.frame is not None
    assert outcome.frame.endswith(bytes(range(1, 19)))


@pytest.mark.parametrize("length", [0, 7, 500])
def test_d7_udp_length_lies(bench: Bench, family: Addresses, length: int) -> None:
    """D7: never half a DNAT."""
    at = L3 + (20 if family.family == 4 else 40) + 4

    send(bench, patched(syn(bench, family, UDP), at, struct.pack("!H", length)))

    assert untouched(bench)


def test_d8_version_and_ethertype_differ(bench: Bench, family: Addresses) -> None:
    """D8"""
    frame = syn(bench, family)

    send(bench, patched(frame, L3, bytes([frame[L3] ^ 0x20])))

    assert untouched(bench)


@pytest.mark.parametrize(
    "options",
    [
        inet.IPOption_RR(routers=["0.0.0.0"] * 3),
        inet.IPOption_Timestamp(),
        inet.IPOption(b"\x9e\x08" + bytes(6)),
        inet.IPOption(b"\x9e\x28" + bytes(38)),
    ],
    ids=["RR", "TS", "unknown", "40 bytes"],
)
def test_d9_ipv4_options_move_l4(bench: Bench, protocol: int, options: inet.IPOption) -> None:
    """D9: translated as Scapy would have made it, options untouched."""
    talk = outside(bench, V4, HERE, protocol=protocol)
    segment = Segment(talk.client, talk.frontend, protocol)
    packet = segment.ip()
    packet.options = [options]

    talk.say_frame(framed(packet))

    expected = replace(segment, destination=talk.backend).ip()
    expected.options = [options]
    assert talk.seen is not None
    assert talk.seen.frame == framed(expected)


def test_d9_a_source_route_is_left_to_the_stack(bench: Bench) -> None:
    """D9: LSRR; Scapy sums the last router's address, so the model alone compares."""
    talk = outside(bench, V4, HERE)
    packet = Segment(talk.client, talk.frontend).ip()
    packet.options = [inet.IPOption_LSRR(routers=["192.0.2.1"])]

    assert talk.say_frame(framed(packet)).action is Action.PASS


EXTENSIONS = {
    "hop-by-hop": inet6.IPv6ExtHdrHopByHop(options=inet6.RouterAlert()),
    "destination": inet6.IPv6ExtHdrDestOpt(options=inet6.PadN(optdata=b"12")),
    "routing": inet6.IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=0),
}


@pytest.mark.parametrize("names", [["hop-by-hop"], ["destination"], ["routing"], list(EXTENSIONS)])
def test_d10_ipv6_extension_headers_are_walked(
    bench: Bench, protocol: int, names: list[str]
) -> None:
    """D10"""
    talk = outside(bench, V6, HERE, protocol=protocol)
    segment = Segment(talk.client, talk.frontend, protocol)
    packet = inet6.IPv6(src=show(talk.client.address), dst=show(talk.frontend.address))
    for name in names:
        packet = packet / EXTENSIONS[name].copy()

    outcome = send(bench, framed(packet / segment.l4()))

    assert outcome.action is Action.PASS
    assert outcome.frame is not None
    assert packed(V6.pods[1]) in outcome.frame


def test_d10_an_authentication_header_is_walked(bench: Bench, protocol: int) -> None:
    """D10: RFC 4302: its length counts words, and two less."""
    talk = outside(bench, V6, HERE, protocol=protocol)
    segment = Segment(talk.client, talk.frontend, protocol)
    (whole,) = (segment.frame(),)
    header = bytes([protocol, 4, 0, 0]) + bytes(20)
    length = struct.pack("!H", len(whole) - L3 - 40 + len(header))
    frame = patched(patched(whole, L3 + 4, length), L3 + 6, bytes([51]))

    outcome = send(bench, frame[: L3 + 40] + header + frame[L3 + 40 :])

    assert outcome.action is Action.PASS
    assert outcome.frame is not None
    assert packed(V6.pods[1]) in outcome.frame


@pytest.mark.parametrize("count", [20, 50])
def test_d11_a_long_chain_is_dropped(bench: Bench, count: int) -> None:
    """D11: bounded work."""
    talk = outside(bench, V6, HERE)
    chain = (bytes([60, 0]) + bytes(6)) * (count - 1) + bytes([6, 0]) + bytes(6)
    packet = inet6.IPv6(src=show(talk.client.address), dst=show(talk.frontend.address), nh=60)

    outcome = send(bench, framed(packet / Raw(chain + bytes(20))))

    assert outcome.action is Action.DROP
    assert outcome.reasons == (Reason.EXTENSION_HEADERS,)


@pytest.mark.parametrize("protocol_number", [59, 50, 47, 132], ids=["none", "ESP", "GRE", "SCTP"])
def test_d12_d14_other_protocols(bench: Bench, family: Addresses, protocol_number: int) -> None:
    """D12, D14, D39 (SCTP is never translated), R16"""
    for address in (family.node, family.lb(10), family.elsewhere):
        if family.family == 4:
            packet = inet.IP(src=family.client, dst=address, proto=protocol_number)
        else:
            packet = inet6.IPv6(src=family.client, dst=address, nh=protocol_number)

        assert send(bench, framed(packet / Raw(bytes(32)))).action is Action.PASS
    assert untouched(bench)


def test_d13_jumbo_payload_is_measured_by_the_frame(bench: Bench) -> None:
    """D13"""
    talk = outside(bench, V6, HERE)
    data = bytes(Segment(talk.client, talk.frontend).ip())[40:]
    jumbo = bytes([6, 0, 0xC2, 4]) + struct.pack("!I", 8 + len(data))
    packet = inet6.IPv6(src=show(talk.client.address), dst=show(talk.frontend.address), nh=0)
    frame = framed(packet / Raw(jumbo + data))

    outcome = send(bench, patched(frame, L3 + 4, b"\0\0"))

    assert outcome.action is Action.PASS
    assert outcome.frame is not None
    assert packed(V6.pods[1]) in outcome.frame


@pytest.mark.parametrize("kind", [0x0806, 0x88CC, 0x0026, 0x05FF, 0x8100, 0x8847, 0x8863], ids=hex)
@pytest.mark.parametrize("hook", list(Hook))
def test_d15_other_ethertypes_pass(bench: Bench, kind: int, hook: Hook) -> None:
    """D15, D159: ARP, LLDP, 802.3 lengths, VLAN tags in the packet, MPLS, PPPoE."""
    device = "up0" if "uplink" in hook else "pod0"

    outcome = bench.send(hook, device, ethernet(kind, bytes(46)))

    assert outcome.action is Action.PASS
    assert untouched(bench)


def test_d17_port_zero(bench: Bench, family: Addresses, protocol: int) -> None:
    """D17: destination 0 is nobody's, source 0 is a client like any other."""
    talk = outside(bench, family, HERE, protocol=protocol)
    to_zero = replace(talk.frontend, port=0)
    from_zero = replace(talk.client, port=0)

    passed = send(bench, Segment(talk.client, to_zero, protocol).frame())
    assert passed.frame is None
    delivered = send(bench, Segment(from_zero, talk.frontend, protocol).frame())

    assert passed.action is delivered.action is Action.PASS
    assert delivered.frame is not None


@pytest.mark.parametrize("hook", [Hook.UPLINK_IN, Hook.POD_IN])
def test_d18_other_destinations_leave_no_trace(
    bench: Bench, family: Addresses, protocol: int, hook: Hook
) -> None:
    """D18"""
    device = "up0" if hook is Hook.UPLINK_IN else "pod0"
    source = packed(family.client if hook is Hook.UPLINK_IN else family.pods[0])
    for address in (family.elsewhere, family.pods[1], family.remotes[0]):
        to = Endpoint(packed(address), 80)

        outcome = bench.send(hook, device, Segment(Endpoint(source, 4000), to, protocol).frame())

        assert (outcome.action, outcome.frame) == (Action.PASS, None)
    assert untouched(bench)


@pytest.mark.parametrize(("outer", "inner"), [(V4, V4), (V6, V4), (V6, V6), (V4, V6)])
def test_d19_tunnels_pass(bench: Bench, outer: Addresses, inner: Addresses) -> None:
    """D19: IPIP, 4in6, 6in6, 6in4 to a node or a VIP."""
    talk = outside(bench, inner, HERE)
    inside = Segment(talk.client, talk.frontend).ip()
    for address in (outer.node, outer.lb(12), outer.elsewhere):
        ip = inet.IP if outer.family == 4 else inet6.IPv6

        outcome = send(bench, framed(ip(src=outer.client, dst=address) / inside))

        assert (outcome.action, outcome.frame) == (Action.PASS, None)


@pytest.mark.parametrize("flags", ["", "SF", "SR", "FPU", "A", "FA", "R", "RA", "SA", "SFRPAU"])
@pytest.mark.parametrize("kind", [FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER])
def test_d20_only_a_clean_syn_opens_a_connection(
    bench: Bench, family: Addresses, flags: str, kind: FrontendKind
) -> None:
    """D20, D81"""
    talk = outside(bench, family, ANY, kind)

    outcome = talk.say(flags)

    assert outcome.action is (Action.PASS if kind == FrontendKind.NODE_PORT else Action.DROP)
    assert untouched(bench)


def test_d16_short_frames_are_refused_by_the_kernel(bench: Bench) -> None:
    """D16: below an IP header nothing reaches us in a test run; see the truncation sweep."""
    for length in (0, 1, 13):
        with pytest.raises(OSError, match="Invalid argument"):
            bench.run(Hook.UPLINK_IN, "up0", (PAYLOAD * 2)[:length])


def test_a_clean_syn_with_data_is_translated(bench: Bench, family: Addresses) -> None:
    """D89: TCP Fast Open, and 40 bytes of options."""
    talk = outside(bench, family, REMOTE)
    segment = Segment(talk.client, talk.frontend, payload=PAYLOAD).ip()
    segment[inet.TCP].options = [("MSS", 1460), (19, b"0" * 16), (34, b"cookie12")]

    outcome = talk.say_frame(framed(segment))

    assert outcome.action is Action.REDIRECT


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.53", "192.0.2.250"])
@pytest.mark.parametrize("hook", [Hook.UPLINK_IN, Hook.POD_IN])
def test_d149_an_address_that_may_be_no_frontend_is_left_alone(
    bench: Bench, protocol: int, hook: Hook, address: str
) -> None:
    """D149: metadata, resolver, API server: the agent refuses them; loopback is dropped (D145)."""
    device = "up0" if hook is Hook.UPLINK_IN else "pod0"
    source = packed(V4.client if hook is Hook.UPLINK_IN else V4.pods[0])
    to = Endpoint(packed(address), 80)

    outcome = bench.send(hook, device, Segment(Endpoint(source, 4000), to, protocol).frame())

    assert outcome.frame is None
    assert outcome.action is (Action.DROP if address.startswith("127") else Action.PASS)
    assert untouched(bench)


@pytest.mark.parametrize("mapped", ["source", "destination", "both"])
@pytest.mark.parametrize("hook", [Hook.UPLINK_IN, Hook.POD_IN])
def test_an_ipv4_mapped_address_in_an_ipv6_packet_is_nobody_s(
    bench: Bench, hook: Hook, mapped: str
) -> None:
    """D141, D146, D152: only sockets have such addresses; in the tables they are IPv4's."""
    device = "up0" if hook is Hook.UPLINK_IN else "pod0"
    v4, v6 = (
        (outside if hook is Hook.UPLINK_IN else from_pod)(bench, family, HERE)
        for family in (V4, V6)
    )
    source, destination = v6.client.address, v6.frontend.address
    if mapped in ("source", "both"):
        source = bytes(10) + b"\xff\xff" + v4.client.address
    if mapped in ("destination", "both"):
        destination = bytes(10) + b"\xff\xff" + v4.frontend.address
    frame = Segment(Endpoint(source, 4000), Endpoint(destination, v4.frontend.port), TCP).frame()

    outcome = bench.send(hook, device, frame)

    assert outcome.frame is None
    assert outcome.action is (Action.DROP if mapped == "source" else Action.PASS)
    assert untouched(bench)
