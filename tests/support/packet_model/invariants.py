# SPDX-License-Identifier: Apache-2.0
"""What must hold over any sequence of packets, whatever was chosen (issue: Tests)."""

from __future__ import annotations

from tests.support.packet_model.tracking import Tracker
from tests.support.packet_model.wire import TCP, UDP, Packet


def payload(packet: Packet) -> bytes:
    """What the application sent, and the L4 header without ports and checksum."""
    l4 = packet.frame[packet.l4 : packet.end]
    if packet.is_later_fragment:
        return l4
    if packet.protocol == TCP:
        return l4[4:16] + l4[18:]
    if packet.protocol == UDP:
        return l4[4:6] + l4[8:]
    return l4


def no_tuple_is_shared(tracker: Tracker, now: int) -> str | None:
    """D102: among live flows both tuples name exactly one flow."""
    alive = list(tracker.alive(now))
    for name, keys in (
        ("forward", [flow.forward_key for flow in alive]),
        ("reply", [flow.reply_key for flow in alive]),
    ):
        if len(keys) != len(set(keys)):
            return f"two live flows share a {name} tuple"
    for flow in alive:
        if tracker.reply.get(flow.reply_key) is not flow:
            return f"a live flow lost its reply tuple: {flow}"
    return None
