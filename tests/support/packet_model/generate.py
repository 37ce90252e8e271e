# SPDX-License-Identifier: Apache-2.0
"""Packets, made by Scapy: an implementation of every checksum that is not ours.

Scapy gets text addresses and gives bytes; nothing else in the tests knows it. All frames
have an Ethernet header between two fixed link addresses.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from scapy.layers import inet, inet6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw
from scapy.utils import checksum

from tests.support.packet_model.outcome import show
from tests.support.packet_model.wire import ETH_LENGTH, TCP, Endpoint

ETHER = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
PAYLOAD = b"vipbee payload, odd length!"


@dataclass(frozen=True, slots=True)
class Segment:
    """What a test wants to send, in words."""

    source: Endpoint
    destination: Endpoint
    protocol: int = TCP
    flags: str = "S"
    sequence: int = 1000
    acknowledgement: int = 0
    payload: bytes = b""
    ttl: int = 64

    @property
    def family(self) -> int:
        return 4 if len(self.source.address) == 4 else 6

    def ip(self) -> ScapyPacket:
        """IP and L4, checksums not computed yet."""
        ends = {"src": show(self.source.address), "dst": show(self.destination.address)}
        if self.family == 4:
            return inet.IP(**ends, ttl=self.ttl, id=4711) / self.l4()
        return inet6.IPv6(**ends, hlim=self.ttl) / self.l4()

    def l4(self) -> ScapyPacket:
        ports = {"sport": self.source.port, "dport": self.destination.port}
        if self.protocol != TCP:
            return inet.UDP(**ports) / Raw(self.payload or PAYLOAD)
        header = inet.TCP(**ports, flags=self.flags, seq=self.sequence, ack=self.acknowledgement)
        return header / Raw(self.payload) if self.payload else header

    def frame(self) -> bytes:
        return _frame_of(self)


@functools.lru_cache(maxsize=4096)
def _frame_of(segment: Segment) -> bytes:
    """Scapy takes longer than everything else of a test, and tests repeat themselves."""
    return framed(segment.ip())


def framed(packet: ScapyPacket) -> bytes:
    kind = 0x0800 if isinstance(packet, inet.IP) else 0x86DD
    return bytes(Ether(**ETHER, type=kind) / packet)


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes(Ether(**ETHER, type=kind)) + payload


@functools.lru_cache(maxsize=4096)
def echo(source: bytes, destination: bytes, *, identifier: int = 7, ttl: int = 64) -> bytes:
    """An echo request."""
    ends = {"src": show(source), "dst": show(destination)}
    if len(source) == 4:
        return framed(
            inet.IP(**ends, ttl=ttl) / inet.ICMP(type=8, id=identifier, seq=1) / Raw(PAYLOAD)
        )
    return framed(
        inet6.IPv6(**ends, hlim=ttl) / inet6.ICMPv6EchoRequest(id=identifier, seq=1, data=PAYLOAD)
    )


@functools.lru_cache(maxsize=4096)
def icmp_error(
    source: bytes,
    destination: bytes,
    quoted: bytes,
    *,
    kind: int,
    code: int,
    extra: int = 0,
    quote_l4: int | None = 8,
    options: bytes = b"",
    ttl: int = 64,
) -> bytes:
    """An error about `quoted`, a frame. `quote_l4`: bytes of L4 it shows; None: all.

    `extra`: the 32 bits after the checksum (MTU). `options`: IPv4 options of the outer header.
    """
    inside = quoted[ETH_LENGTH:]
    if quote_l4 is not None:
        header = (inside[0] & 15) * 4 if inside[0] >> 4 == 4 else 40
        inside = inside[: header + quote_l4]
    ends = {"src": show(source), "dst": show(destination)}
    message = bytes([kind, code]) + bytes(2) + extra.to_bytes(4) + inside
    if len(source) == 4:
        value = checksum(message)
        outer = inet.IP(**ends, proto=1, ttl=ttl, options=inet.IPOption(options) if options else [])
    else:
        outer = inet6.IPv6(**ends, nh=58, hlim=ttl)
        value = inet6.in6_chksum(58, outer, message)
    return framed(outer / Raw(message[:2] + int(value).to_bytes(2) + message[4:]))


@functools.lru_cache(maxsize=4096)
def fragments(segment: Segment, size: int, *, identity: int = 0x1234) -> tuple[bytes, ...]:
    """The datagram in frames of `size` bytes of data each (a multiple of 8), in order."""
    packet = segment.ip()
    whole = bytes(packet)
    header = 20 if segment.family == 4 else 40
    data = whole[header:]
    pieces = []
    for at in range(0, len(data), size):
        more = at + size < len(data)
        part = Raw(data[at : at + size])
        ends = {"src": show(segment.source.address), "dst": show(segment.destination.address)}
        if segment.family == 4:
            outer = inet.IP(
                **ends,
                ttl=segment.ttl,
                id=identity,
                proto=segment.protocol,
                flags="MF" if more else 0,
                frag=at // 8,
            )
        else:
            outer = inet6.IPv6(**ends, hlim=segment.ttl) / inet6.IPv6ExtHdrFragment(
                nh=segment.protocol, offset=at // 8, m=int(more), id=identity
            )
        pieces.append(framed(outer / part))
    return tuple(pieces)


def truncations(frame: bytes) -> Iterator[bytes]:
    """Every proper prefix a frame on the wire can have been cut to."""
    for length in range(ETH_LENGTH, len(frame)):
        yield frame[:length]


def mutated(frame: bytes, rng: random.Random) -> bytes:
    """One to four random changes: bits, bytes, cuts, growth, interesting values."""
    out = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if rng.random() < 0.3 else rng.randrange(12, len(out))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 6, 17, 44, 58, 60))
            case 3:
                del out[max(ETH_LENGTH, at) :]
            case 4:
                out += rng.randbytes(rng.randint(1, 64))
            case _:
                length = rng.randint(1, 8)
                out[at : at + length] = rng.randbytes(len(out[at : at + length]))
        if len(out) <= ETH_LENGTH:
            return bytes(out.ljust(ETH_LENGTH, b"\0"))
    return bytes(out)
