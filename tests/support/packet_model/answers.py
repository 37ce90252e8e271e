# SPDX-License-Identifier: Apache-2.0
"""Answers the datapath makes up itself: RST, ICMP errors, echo replies.

The rules fix what a client must understand (RFC 9293 3.5.2, RFC 792, RFC 4443), not every
byte: so each answer is a check of a frame instead of the frame.
"""

from __future__ import annotations

import struct

from tests.support.packet_model.outcome import ReplyCheck, parse_any
from tests.support.packet_model.rewrite import internet_checksum
from tests.support.packet_model.wire import ACK, FIN, ICMP, RST, SYN, TCP, UDP, Packet

PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}
TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
ERRORS = {4: frozenset({3, 4, 11, 12}), 6: frozenset({1, 2, 3, 4})}
"""Error types about a packet of ours. A redirect is not (D67)."""


def is_error(packet: Packet) -> bool:
    return packet.is_icmp and packet.frame[packet.l4] in ERRORS[packet.family]


def is_echo_request(packet: Packet) -> bool:
    return packet.is_icmp and packet.frame[packet.l4] == ECHO_REQUEST[packet.family]


def pseudo_header(packet: Packet) -> bytes:
    length = packet.end - packet.l4
    if packet.family == 4:
        return packet.source + packet.destination + struct.pack("!BBH", 0, packet.protocol, length)
    return packet.source + packet.destination + struct.pack("!IHBB", length, 0, 0, packet.protocol)


def checksum_holds(packet: Packet) -> bool:
    """Is the L4 checksum of an unfragmented packet right? UDP without one counts as right."""
    l4 = packet.frame[packet.l4 : packet.end]
    if packet.protocol == UDP and l4[6:8] == b"\0\0":
        return packet.family == 4
    covered = l4 if packet.protocol == ICMP else pseudo_header(packet) + l4
    return internet_checksum(covered) == 0


def header_holds(packet: Packet) -> bool:
    if packet.family == 6:
        return True
    return internet_checksum(packet.frame[packet.l3 : packet.l4]) == 0


def _common(answer: Packet, asked: Packet, *, is_turned: bool = False) -> str | None:
    """`is_turned`: made from the packet itself, so what was wrong with it still is (D35)."""
    if answer.destination != asked.source:
        return "the answer does not go to the client"
    if header_holds(answer) is not (header_holds(asked) or not is_turned):
        return "the answer's IP header checksum is wrong"
    if checksum_holds(answer) is not (checksum_holds(asked) or not is_turned):
        return "the answer's L4 checksum is wrong"
    if answer.ttl < 32:
        return f"the answer's TTL is {answer.ttl}"
    return None


def reset_of(asked: Packet, *, has_ethernet: bool) -> ReplyCheck:
    """A TCP RST as a closed port sends it, from the address and port that was dialled."""
    unreachable = error_about(asked, PORT_UNREACHABLE, has_ethernet=has_ethernet)

    def check(frame: bytes) -> str | None:
        answer = parse_any(frame, has_ethernet=has_ethernet)
        if answer is not None and answer.is_icmp:
            return unreachable(frame)  # R35 counts either as a refusal
        if answer is None or answer.protocol != TCP or answer.defect is not None:
            return f"not a TCP segment: {frame.hex()}"
        if wrong := _common(answer, asked):
            return wrong
        if (answer.client, answer.dialled) != (asked.dialled, asked.client):
            return "the RST's ends are not the packet's, reversed"
        return _wrong_sequence(answer, asked)

    return check


def _wrong_sequence(answer: Packet, asked: Packet) -> str | None:
    sequence, acknowledgement = struct.unpack_from("!II", answer.frame, answer.l4 + 4)
    asked_sequence, asked_ack = struct.unpack_from("!II", asked.frame, asked.l4 + 4)
    if asked.flags & ACK:
        return None if answer.flags & RST and sequence == asked_ack else "RST: SEQ is not their ACK"
    header = (asked.frame[asked.l4 + 12] >> 4) * 4
    length = asked.end - asked.l4 - header
    length += bool(asked.flags & SYN) + bool(asked.flags & FIN)
    wanted = (asked_sequence + length) & 0xFFFFFFFF
    if answer.flags & (RST | ACK | SYN) != RST | ACK or sequence != 0:
        return f"RST: flags {answer.flags:#x}, SEQ {sequence}; wanted RST|ACK and 0"
    return None if acknowledgement == wanted else f"RST: ACK {acknowledgement}, wanted {wanted}"


def error_about(
    asked: Packet, kind: dict[int, tuple[int, int]], *, has_ethernet: bool, mtu: int | None = None
) -> ReplyCheck:
    """An ICMP error that quotes the packet as the client sent it."""

    def check(frame: bytes) -> str | None:
        answer = parse_any(frame, has_ethernet=has_ethernet)
        if answer is None or not answer.is_icmp:
            return f"not an ICMP message: {frame.hex()}"
        if wrong := _common(answer, asked):
            return wrong
        found = tuple(answer.frame[answer.l4 : answer.l4 + 2])
        if found != kind[asked.family]:
            return f"ICMP type and code {found} instead of {kind[asked.family]}"
        quoted = answer.frame[answer.l4 + 8 : answer.end]
        needs = asked.l4 - asked.l3 + 8
        if len(quoted) < needs or not asked.frame[asked.l3 : asked.end].startswith(quoted):
            return "the quote is not the start of the client's packet, or too short"
        if answer.end - answer.l3 > (576 if asked.family == 4 else 1280):
            return "the error is longer than RFC 1812 / RFC 4443 allow"
        if mtu is not None and _mtu(answer) != mtu:
            return f"the error names MTU {_mtu(answer)} instead of {mtu}"
        return None

    return check


def _mtu(answer: Packet) -> int:
    layout, at = ("!H", 6) if answer.family == 4 else ("!I", 4)
    return int(struct.unpack_from(layout, answer.frame, answer.l4 + at)[0])


def echo_of(asked: Packet, *, has_ethernet: bool) -> ReplyCheck:
    """D64: same identifier, sequence and data, from the address that was asked."""

    def check(frame: bytes) -> str | None:
        answer = parse_any(frame, has_ethernet=has_ethernet)
        if answer is None or not answer.is_icmp:
            return f"not an ICMP message: {frame.hex()}"
        if wrong := _common(answer, asked, is_turned=True):
            return wrong
        if answer.source != asked.destination:
            return "the echo reply comes from another address"
        if answer.frame[answer.l4] != ECHO_REPLY[asked.family]:
            return "not an echo reply"
        same = answer.frame[answer.l4 + 4 : answer.end] == asked.frame[asked.l4 + 4 : asked.end]
        return None if same else "the echo reply carries something else"

    return check
