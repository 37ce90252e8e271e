# SPDX-License-Identifier: Apache-2.0
"""Bytes → Packet or the reason why not, by the letter of the RFCs. No state, no policy.

Addresses are 4 or 16 bytes in network order. Offsets count from the start of the frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import StrEnum

ETH_LENGTH = 14
ETH_IPV4, ETH_IPV6 = 0x0800, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, ESP, AH, NO_NEXT, DEST_OPTS = 0, 43, 44, 50, 51, 59, 60
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

MUST_WALK_HEADERS = 4
"""Extension headers every implementation has to walk: each kind once (D10)."""
MAY_WALK_HEADERS = 16
"""More must not be walked: the work per packet is bounded (D11)."""


class Defect(StrEnum):
    """Why a packet cannot be taken apart, and the D row that says what follows."""

    NOT_IP = "another EtherType (D15)"
    SHORT_HEADER = "IP header cut off (D1, D2, D6, D16)"
    VERSION = "version nibble and EtherType differ (D8)"
    LENGTH = "IP length field past the frame or inside the header (D6)"
    SHORT_L4 = "L4 header cut off (D3, D4)"
    TCP_OFFSET = "TCP data offset below 5 or past the end (D5)"
    UDP_LENGTH = "UDP length below 8 or past the end (D7)"
    EXTENSIONS = "too many extension headers (D11)"
    TINY_FRAGMENT = "first fragment without its ports (D27)"


@dataclass(frozen=True, slots=True)
class Fragment:
    identity: int
    offset: int  # bytes
    more: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: bytes
    port: int


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet inside `frame`. Ports are 0 where there are none (ICMP, later fragments)."""

    frame: bytes
    l3: int
    l4: int
    end: int  # of the IP packet: what follows is padding
    family: int
    protocol: int  # of the upper layer, after extension headers
    source: bytes
    destination: bytes
    ttl: int
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0
    fragment: Fragment | None = None
    defect: Defect | None = None  # of L4 only
    headers: int = 0  # extension headers before L4

    @property
    def client(self) -> Endpoint:
        return Endpoint(self.source, self.source_port)

    @property
    def dialled(self) -> Endpoint:
        return Endpoint(self.destination, self.destination_port)

    @property
    def is_later_fragment(self) -> bool:
        return self.fragment is not None and self.fragment.offset > 0

    @property
    def is_icmp(self) -> bool:
        return self.protocol == (ICMP if self.family == 4 else ICMP6)

    def with_ports(self, source_port: int, destination_port: int) -> Packet:
        return replace(self, source_port=source_port, destination_port=destination_port)


@dataclass(frozen=True, slots=True)
class Broken:
    """Not an IP packet we can follow. Destination if it could be read."""

    defect: Defect
    destination: bytes | None = None


def parse(frame: bytes, *, has_ethernet: bool = True, protocol: int = 0) -> Packet | Broken:
    """Take a frame apart. `protocol`: the EtherType where the device has no Ethernet header."""
    if has_ethernet:
        if len(frame) < ETH_LENGTH:
            return Broken(Defect.SHORT_HEADER)
        (protocol,) = struct.unpack_from("!H", frame, 12)
    l3 = ETH_LENGTH if has_ethernet else 0
    if protocol == ETH_IPV4:
        return parse_ipv4(frame, l3)
    if protocol == ETH_IPV6:
        return parse_ipv6(frame, l3)
    return Broken(Defect.NOT_IP)


def parse_ipv4(frame: bytes, l3: int, *, quoted: bool = False) -> Packet | Broken:
    """`quoted`: inside an ICMP error, where the packet is expected to be cut (RFC 792)."""
    if len(frame) < l3 + 20:
        return Broken(Defect.SHORT_HEADER)
    if frame[l3] >> 4 != 4:
        return Broken(Defect.VERSION)
    destination = frame[l3 + 16 : l3 + 20]
    header = (frame[l3] & 15) * 4
    if header < 20 or l3 + header > len(frame):
        return Broken(Defect.SHORT_HEADER, destination)
    total, identity, offset_field = struct.unpack_from("!HHH", frame, l3 + 2)
    if quoted:
        total = len(frame) - l3  # what is there counts, whatever the original's length was
    if total < header or l3 + total > len(frame):
        return Broken(Defect.LENGTH, destination)
    more, offset = bool(offset_field & 0x2000), (offset_field & 0x1FFF) * 8
    packet = Packet(
        frame=frame,
        l3=l3,
        l4=l3 + header,
        end=l3 + total,
        family=4,
        protocol=frame[l3 + 9],
        source=frame[l3 + 12 : l3 + 16],
        destination=destination,
        ttl=frame[l3 + 8],
        fragment=Fragment(identity, offset, more) if more or offset else None,
    )
    return _with_l4(packet, quoted=quoted)


def parse_ipv6(frame: bytes, l3: int, *, quoted: bool = False) -> Packet | Broken:
    if len(frame) < l3 + 40:
        return Broken(Defect.SHORT_HEADER)
    if frame[l3] >> 4 != 6:
        return Broken(Defect.VERSION)
    destination = frame[l3 + 24 : l3 + 40]
    payload, following, ttl = struct.unpack_from("!HBB", frame, l3 + 4)
    end = l3 + 40 + payload
    if payload == 0 and following == HOP_BY_HOP:
        end = len(frame)  # jumbo payload option (D13): the frame knows better
    if quoted:
        end = len(frame)
    if end > len(frame):
        return Broken(Defect.LENGTH, destination)
    at, walked, fragment = l3 + 40, 0, None
    while following in (HOP_BY_HOP, ROUTING, DEST_OPTS, AH, FRAGMENT):
        if fragment is not None and fragment.offset > 0:
            break  # what follows is data
        if at + 8 > end:
            return Broken(Defect.SHORT_L4, destination)
        if walked == MAY_WALK_HEADERS:
            return Broken(Defect.EXTENSIONS, destination)
        if following == FRAGMENT:
            field, identity = struct.unpack_from("!HI", frame, at + 2)
            if field & 0xFFF9:  # an atomic fragment is a whole packet (D28, RFC 6946)
                fragment = Fragment(identity, field & 0xFFF8, bool(field & 1))
            length = 8
        else:
            length = (frame[at + 1] + 2) * 4 if following == AH else (frame[at + 1] + 1) * 8
        following, at, walked = frame[at], at + length, walked + 1
    if at > end:
        return Broken(Defect.SHORT_L4, destination)
    packet = Packet(
        frame=frame,
        l3=l3,
        l4=at,
        end=end,
        family=6,
        protocol=following,
        source=frame[l3 + 8 : l3 + 24],
        destination=destination,
        ttl=ttl,
        fragment=fragment,
        headers=walked,
    )
    return _with_l4(packet, quoted=quoted)


def _with_l4(packet: Packet, *, quoted: bool) -> Packet:
    if packet.is_later_fragment:
        return packet
    room = packet.end - packet.l4
    frame, at = packet.frame, packet.l4
    if packet.protocol not in (TCP, UDP):
        needs = 8 if packet.is_icmp else 0
        return packet if room >= needs else replace(packet, defect=Defect.SHORT_L4)
    needs = 8 if quoted or packet.protocol == UDP else 20
    if room < needs:
        tiny = packet.fragment is not None
        return replace(packet, defect=Defect.TINY_FRAGMENT if tiny else Defect.SHORT_L4)
    source_port, destination_port = struct.unpack_from("!HH", frame, at)
    packet = packet.with_ports(source_port, destination_port)
    if quoted:
        return packet
    if packet.protocol == UDP:
        (length,) = struct.unpack_from("!H", frame, at + 4)
        is_jumbo = length == 0 and packet.family == 6 and frame[packet.l3 + 4 :][:2] == b"\0\0"
        if is_jumbo:  # RFC 2675
            return packet
        if length < 8 or (length > room and packet.fragment is None):
            return replace(packet, defect=Defect.UDP_LENGTH)
        return packet
    offset = (frame[at + 12] >> 4) * 4
    packet = replace(packet, flags=frame[at + 13])
    if offset < 20 or (offset > room and packet.fragment is None):
        return replace(packet, defect=Defect.TCP_OFFSET)
    return packet
