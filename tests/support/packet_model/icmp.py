# SPDX-License-Identifier: Apache-2.0
"""ICMP errors about translated connections, inside and out (D48-D62, RFC 5508).

Two directions, by which packet is quoted:

    quoted as sent to the backend  (source → backend)   goes to the client: show the frontend
    quoted as shown to the client  (frontend → client)  goes to the backend: show the backend
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from tests.support.packet_model.rewrite import internet_checksum, rewritten, updated
from tests.support.packet_model.tracking import Flow, Tracker, Zone
from tests.support.packet_model.wire import (
    ICMP,
    TCP,
    UDP,
    Broken,
    Endpoint,
    Packet,
    parse_ipv4,
    parse_ipv6,
)


@dataclass(frozen=True, slots=True)
class Quote:
    """The packet an error is about, cut as the error has it."""

    packet: Packet
    flow: Flow
    to_client: bool


def quoted_in(error: Packet) -> Packet | None:
    """The quoted packet with offsets in the error's frame; None: nothing readable."""
    frame = error.frame[: error.end]
    parser = parse_ipv4 if error.family == 4 else parse_ipv6
    quoted = parser(frame, error.l4 + 8, quoted=True)
    if isinstance(quoted, Broken) or quoted.defect is not None:
        return None
    return quoted


def find_quote(
    quoted: Packet, tracker: Tracker, zone: Zone, now: int, *, to_backend: bool
) -> Quote | None:
    """Whose packet was it? Only TCP and UDP are ever translated."""
    if quoted.protocol not in (TCP, UDP) or quoted.is_later_fragment:
        return None
    flow = tracker.find_reply(zone, quoted.protocol, quoted.dialled, quoted.client, now)
    if flow is not None:
        return Quote(quoted, flow, to_client=True)
    if to_backend:
        flow = tracker.find_forward(zone, quoted.protocol, quoted.dialled, quoted.client, now)
        if flow is not None and not flow.is_nodes:  # its client does not come in by a device
            return Quote(quoted, flow, to_client=False)
    return None


def translated(error: Packet, quote: Quote, *, outer_source: bytes, ttl_spent: int) -> bytes:
    """The error as its receiver must see it. Wrong checksums stay wrong (D40, D41)."""
    flow = quote.flow
    if quote.to_client:
        inner_source, inner_destination = flow.client, flow.frontend
        outer_destination = flow.client.address
    else:
        inner_source, inner_destination = flow.backend, flow.source
        outer_destination = flow.backend.address
    quoted = replace(quote.packet, frame=error.frame)
    inside = rewritten(quoted, source=inner_source, destination=inner_destination)
    with_checksum = _with_icmp_checksum(error, inside)
    return rewritten(
        replace(error, frame=with_checksum),
        source=Endpoint(outer_source, 0),
        destination=Endpoint(outer_destination, 0),
        ttl_spent=ttl_spent,
    )


def _with_icmp_checksum(error: Packet, inside: bytes) -> bytes:
    start, at = error.l4 + 8, error.l4 + 2
    old, new = error.frame[start : error.end], inside[start : error.end]
    (before,) = struct.unpack_from("!H", error.frame, at)
    return inside[:at] + struct.pack("!H", updated(before, _changes(old, new))) + inside[at + 2 :]


def _changes(old: bytes, new: bytes) -> list[tuple[bytes, bytes]]:
    """Changed 16-bit words; the last one padded, as the checksum sees it."""
    if len(old) % 2:
        old, new = old + b"\0", new + b"\0"
    words = range(0, len(old), 2)
    return [(old[n : n + 2], new[n : n + 2]) for n in words if old[n : n + 2] != new[n : n + 2]]


def icmp_checksum_holds(error: Packet) -> bool:
    message = error.frame[error.l4 : error.end]
    if error.protocol == ICMP:
        return internet_checksum(message) == 0
    length = struct.pack("!IHBB", len(message), 0, 0, error.protocol)
    return internet_checksum(error.source + error.destination + length + message) == 0
