# SPDX-License-Identifier: Apache-2.0
"""Connections that exist: follow_connection() of bpf/from_client.h, and bpf/from_backend.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vipbee.abi import BackendFlag, ConntrackFlag, ConntrackSeen
from vipbee.address import format_address, format_endpoint
from vipbee.core.connection_age import STATE_NAMES, ages_s, remaining_s, states
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.question import TCP
from vipbee.observe.explain.records import Connection, Flow, ReverseHalf
from vipbee.observe.explain.view import CandidateView, ConnectionView, Path
from vipbee.observe.services import state_of

_NS = 1_000_000_000
_ANY_DEVICE = ConntrackFlag(0)
_CLIENTS = ConntrackFlag.NODE_CLIENT | ConntrackFlag.CROSSING


class Followed(NamedTuple):
    """What a packet of the client makes of a connection; `over`: why it does not follow it."""

    connection: Connection
    over: str | None
    is_foreign: bool = False  # its client is met elsewhere: who sends this has its address only


def follow(
    lookups: Lookups,
    zones: Sequence[str],
    flow: Flow,
    *,
    is_first: bool,
    whose: ConntrackFlag = _ANY_DEVICE,
) -> Followed | None:
    """In the first zone whose connection is followed, else the first that knows it.

    `whose`: `is_client_s()`, which clients are met where the packet is.
    """
    found: list[Followed] = []
    for zone in zones:
        connection = lookups.connection(zone, flow)
        if connection is None:
            continue
        if _remaining_s(connection, lookups) >= 0 and connection.flags & _CLIENTS != whose:
            found.append(Followed(connection, "it is of a client that is met elsewhere", True))
            continue
        over = _why_over(connection, lookups, is_first=is_first)
        found.append(Followed(connection, over))
    return min(found, key=lambda each: each.over is not None, default=None)


def answers_the_node(lookups: Lookups, zone: str, flow: Flow) -> bool:
    """`is_answer_to_node()`: the node has sent a datagram from there to who sends this (R94)."""
    half = lookups.reverse_half(zone, flow)
    if half is None or not half.is_direct or flow.protocol == TCP:
        return False
    age_s = (lookups.now_ns // _NS - half.last_seen) & 0xFFFFFFFF
    return age_s <= lookups.settings.lifetimes.udp_s


def _why_over(connection: Connection, lookups: Lookups, *, is_first: bool) -> str | None:
    """`follow_connection()`, check by check."""
    is_tcp = connection.flow.protocol == TCP
    if _remaining_s(connection, lookups) < 0:
        return "its time is over"
    if is_tcp and is_first and _is_over(connection):
        return "it is closed, and a SYN opens a new one"
    if not _keeps_backend(connection, lookups, is_first=is_first):
        return "its backend is gone" if is_tcp else "its backend does not serve any more"
    reverse = lookups.reverse_half(connection.zone, connection.reply)
    if _age_s(connection, lookups) and reverse and reverse.original != connection.flow:
        return "another connection has its replies by now"
    return None


def _keeps_backend(connection: Connection, lookups: Lookups, *, is_first: bool) -> bool:
    """`keeps_backend()` of bpf/conntrack_seen.h (R34, R110)."""
    is_tcp = connection.flow.protocol == TCP
    has_agreed = not is_first and connection.backend_seen & ConntrackSeen.SYN
    if is_tcp and (connection.client_seen & ConntrackSeen.PACKET or has_agreed):
        return True
    flags = _backend_flags(connection, lookups)
    return bool(flags if is_tcp else flags & BackendFlag.SERVING)


def _backend_flags(connection: Connection, lookups: Lookups) -> int:
    """0: the backend it was given is gone."""
    backend = lookups.backend(connection.backend_id)
    is_same = backend is not None and (backend.service_id, backend.generation) == (
        connection.service_id,
        connection.generation,
    )
    return backend.flags if backend is not None and is_same else 0


def candidate_of(connection: Connection, lookups: Lookups) -> CandidateView:
    """The backend it has, by the way it goes."""
    flags = _backend_flags(connection, lookups)
    path = Path.STACK
    if connection.is_redirected:
        is_hairpin = connection.backend == connection.flow.source
        path = Path.HAIRPIN if is_hairpin and connection.zone == "pod" else Path.REDIRECT
    elif connection.flags & ConntrackFlag.NODE_CLIENT:
        path = Path.LOOPBACK
    return CandidateView(
        address=format_address(connection.backend),
        port=connection.backend_port,
        share_percent=100.0,
        state=state_of(flags) if flags else "gone",
        node_local=bool(flags & BackendFlag.ON_NODE),
        path=path,
        seen_as=[format_address(connection.source)],
    )


def view_of(connection: Connection, lookups: Lookups) -> ConnectionView:
    state = int(states(connection.key["protocol"], connection.entry)[0])
    reverse = lookups.reverse_half(connection.zone, connection.reply)
    flow = connection.flow
    return ConnectionView(
        state=STATE_NAMES[state],
        zone=connection.zone,
        client=format_endpoint(flow.source, flow.source_port),
        frontend=format_endpoint(flow.destination, flow.destination_port),
        backend=format_endpoint(connection.backend, connection.backend_port),
        source=format_endpoint(connection.source, connection.source_port),
        is_evictable=not connection.is_established,
        is_redirected=connection.is_redirected,
        age_seconds=max(_age_s(connection, lookups), 0),
        remaining_seconds=_remaining_s(connection, lookups),
        has_reverse_half=reverse is not None and reverse.original == flow,
    )


def _age_s(connection: Connection, lookups: Lookups) -> int:
    return int(ages_s(connection.entry, lookups.now_ns // _NS)[0])


def _remaining_s(connection: Connection, lookups: Lookups) -> int:
    now_s, lifetimes = lookups.now_ns // _NS, lookups.settings.lifetimes
    return int(remaining_s(connection.key["protocol"], connection.entry, now_s, lifetimes)[0])


# ---- replies ------------------------------------------------------------------------------


class Reply(NamedTuple):
    half: ReverseHalf
    connection: Connection | None  # None: evicted, and rebuilt from the reverse half
    passes: str | None  # why it is not restored all the same


def find_reply(
    lookups: Lookups, zone: str, flow: Flow, *, is_redirected: bool, is_first: bool
) -> Reply | None:
    """What `from_backend()` finds at a hook of this zone; `is_first`: a SYN-ACK."""
    half = lookups.reverse_half(zone, flow)
    if half is None or half.is_redirected != is_redirected:
        return None
    connection = lookups.connection(zone, half.original)
    if half.is_direct:
        return Reply(half, None, "it is of a connection that bypasses vipbee")
    return Reply(half, connection, _why_passes(half, connection, lookups, is_first=is_first))


def _why_passes(
    half: ReverseHalf, connection: Connection | None, lookups: Lookups, *, is_first: bool
) -> str | None:
    if connection is None:
        return None
    if (half.backend_id, half.generation) != (connection.backend_id, connection.generation):
        return "its connection has another backend by now"
    if _remaining_s(connection, lookups) < 0:
        return "the time of its connection is over"
    if connection.is_redirected or connection.flow.protocol != TCP:
        return None
    # is_of_direct_connection() of bpf/conntrack_seen.h
    if is_first and _is_over(connection):
        return "its connection is closed: if it repeats no answer, it is of one past vipbee"
    if not is_first and not connection.backend_seen & ConntrackSeen.SYN:
        return "its backend has not agreed yet: it is of one past vipbee"
    return None


def _is_over(connection: Connection) -> bool:
    """`is_reset()` or `is_finished()`."""
    either = connection.client_seen | connection.backend_seen
    both = connection.client_seen & connection.backend_seen
    return bool(either & ConntrackSeen.RST or both & ConntrackSeen.FIN)
