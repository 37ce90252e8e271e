# SPDX-License-Identifier: Apache-2.0
"""The incremental rewrite (RFC 1624): wrong checksums stay wrong, payload stays (D32-D41)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tests.support.packet_model.wire import TCP, UDP, Endpoint, Packet


def ones_sum(data: bytes) -> int:
    """Ones' complement sum of big-endian 16-bit words; odd data is padded with zero."""
    return _fold(int.from_bytes(data + b"\0" if len(data) % 2 else data))


def internet_checksum(data: bytes) -> int:
    return ~_fold(ones_sum(data)) & 0xFFFF


def _fold(total: int) -> int:
    """All carries added: 2**16 is 1 modulo 0xffff. 0 only for a sum of nothing but zeros."""
    folded = total % 0xFFFF
    return 0xFFFF if folded == 0 and total else folded


def updated(checksum: int, changes: Iterable[tuple[bytes, bytes]]) -> int:
    """HC' = ~(~HC + ~m + m'), RFC 1624 equation 3, for every (m, m') of even length."""
    total = ~checksum & 0xFFFF
    changed = False
    for old, new in changes:
        if old != new:
            changed = True
            total += _fold(int.from_bytes(old) ^ (1 << 8 * len(old)) - 1) + ones_sum(new)
    return ~_fold(total) & 0xFFFF if changed else checksum


def _replace(frame: bytearray, at: int, value: bytes) -> tuple[bytes, bytes]:
    old = bytes(frame[at : at + len(value)])
    frame[at : at + len(value)] = value
    return old, value


def _update_at(frame: bytearray, at: int, changes: list[tuple[bytes, bytes]]) -> None:
    (before,) = struct.unpack_from("!H", frame, at)
    struct.pack_into("!H", frame, at, updated(before, changes))


def rewritten(
    packet: Packet,
    *,
    source: Endpoint | None = None,
    destination: Endpoint | None = None,
    ttl_spent: int = 0,
) -> bytes:
    """The frame with these ends. Ports are left alone where the packet shows none."""
    frame = bytearray(packet.frame)
    addresses, ports = _replace_ends(frame, packet, source, destination)
    headers = list(addresses)
    if ttl_spent:
        headers.append(_spend_ttl(frame, packet, ttl_spent))
    if packet.family == 4:
        _update_at(frame, packet.l3 + 10, headers)
    if not packet.is_later_fragment:
        _update_l4(frame, packet, addresses + ports)
    return bytes(frame)


def _replace_ends(
    frame: bytearray, packet: Packet, source: Endpoint | None, destination: Endpoint | None
) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    size = len(packet.source)
    at = packet.l3 + (12 if packet.family == 4 else 8)
    has_ports = packet.protocol in (TCP, UDP) and not packet.is_later_fragment
    addresses, ports = [], []
    for end, address_at, port_at in (
        (source, at, packet.l4),
        (destination, at + size, packet.l4 + 2),
    ):
        if end is None:
            continue
        addresses.append(_replace(frame, address_at, end.address))
        if has_ports:
            ports.append(_replace(frame, port_at, struct.pack("!H", end.port)))
    return addresses, ports


def _spend_ttl(frame: bytearray, packet: Packet, spent: int) -> tuple[bytes, bytes]:
    if packet.family == 6:
        return _replace(frame, packet.l3 + 7, bytes([packet.ttl - spent]))
    with_protocol = bytes([packet.ttl - spent, frame[packet.l3 + 9]])  # the checksum's word
    return _replace(frame, packet.l3 + 8, with_protocol)


def _update_l4(frame: bytearray, packet: Packet, changes: list[tuple[bytes, bytes]]) -> None:
    """SCTP and unknown protocols have no pseudo-header we know of: untouched (D39)."""
    if packet.protocol == TCP and packet.end >= packet.l4 + 18:
        _update_at(frame, packet.l4 + 16, changes)
    elif packet.protocol == UDP and packet.end >= packet.l4 + 8:
        at = packet.l4 + 6
        if frame[at : at + 2] == b"\0\0":
            return  # no checksum stays no checksum (D32)
        _update_at(frame, at, changes)
        if frame[at : at + 2] == b"\0\0":
            frame[at : at + 2] = b"\xff\xff"  # D33
    elif packet.family == 6 and packet.is_icmp:
        addresses = [change for change in changes if len(change[0]) == 16]
        _update_at(frame, packet.l4 + 2, addresses)
