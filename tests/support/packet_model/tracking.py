# SPDX-License-Identifier: Apache-2.0
"""Connections: both tuples, what each side has said, how long they live (D68-D98).

TCP   SYN ──► opening ──SYN-ACK, then ACK of the client──► established
      one FIN: stays established (D74) ── both FINs ──► closing, transitory
      believable RST ──► reset ≤ 10 s; taken back if that side goes on (D71)
UDP   first datagram ──► opening ──reply, then datagram of the client──► established
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tests.support.packet_model.wire import ACK, FIN, RST, SYN, TCP, UDP, Endpoint, Packet
from tests.support.packet_model.world import Lifetimes, World
from vipbee.abi import BackendFlag


class Zone(StrEnum):
    OUTSIDE = "outside"
    POD = "pod"


ForwardKey = tuple[Zone, int, Endpoint, Endpoint]  # client, frontend; where the client comes in
ReplyKey = tuple[Zone, int, Endpoint, Endpoint]  # backend, source it sees; where replies come in


@dataclass(slots=True)
class Side:
    """What one side has sent so far."""

    syn: bool = False
    fin: bool = False
    rst: bool = False
    rst_near: bool = False  # one in a window of 64 kB: may be believed, or not
    any: bool = False
    ack: int | None = None  # last acknowledgement: the sequence the other side goes on with


@dataclass(slots=True)
class Flow:
    zone: Zone  # of the replies
    protocol: int
    client: Endpoint
    frontend: Endpoint
    backend: Endpoint
    source: Endpoint  # what the backend sees as client
    service_id: int
    backend_id: int
    generation: int
    redirected: bool  # both directions bypass the stack
    last_seen: int
    established: bool = False
    is_nodes: bool = False  # the client is a program of the node
    client_zone: Zone | None = None  # of the client's packets; None: the same
    from_client: Side = field(default_factory=Side)
    from_backend: Side = field(default_factory=Side)

    @property
    def forward_key(self) -> ForwardKey:
        return self.client_zone or self.zone, self.protocol, self.client, self.frontend

    @property
    def reply_key(self) -> ReplyKey:
        return self.zone, self.protocol, self.backend, self.source

    @property
    def is_closed(self) -> bool:
        both_fins = self.from_client.fin and self.from_backend.fin
        return self.from_client.rst or self.from_backend.rst or both_fins

    @property
    def may_be_closed(self) -> bool:
        return self.is_closed or self.from_client.rst_near or self.from_backend.rst_near

    def lifetime(self, lifetimes: Lifetimes) -> int:
        if self.protocol == UDP:
            return lifetimes.udp
        if self.from_client.rst or self.from_backend.rst:
            return lifetimes.reset
        if self.is_closed or not self.established:
            return lifetimes.transitory
        return lifetimes.established

    def is_alive(self, lifetimes: Lifetimes, now: int) -> bool:
        return now - self.last_seen <= self.lifetime(lifetimes)

    def is_bound(self, world: World) -> bool:
        """Does it keep its backend? TCP once established always does (R34, R110, D77)."""
        if self.protocol == TCP and self.established:
            return True
        backend = world.same_instance(self.backend_id, self.service_id, self.generation)
        if backend is None:
            return False
        return self.protocol == TCP or bool(backend.flags & BackendFlag.SERVING)

    def is_another_s(self, packet: Packet, *, is_closed: bool) -> bool:
        """D85: of a connection straight from this client port to the backend, source kept.

        A SYN when this one is over, unless it repeats its own; or anything else, but a RST,
        of a backend that never agreed to this one.
        """
        if self.protocol != TCP or packet.is_later_fragment:
            return False
        if packet.flags & SYN:
            (acknowledgement,) = struct.unpack_from("!I", packet.frame, packet.l4 + 8)
            mine = self.from_backend
            return is_closed and not (mine.syn and acknowledgement == mine.ack)
        return not self.from_backend.syn and not packet.flags & RST

    # ---- what a packet tells ------------------------------------------------------------

    def note_client(self, packet: Packet, now: int) -> None:
        self.last_seen = now
        if self.protocol == UDP:
            self.established |= self.from_backend.any
        else:
            opening = not self.established
            _note_tcp(self.from_client, self.from_backend, packet, opening=opening)
            confirmed = self.from_backend.syn and packet.flags & ACK
            if confirmed and not packet.flags & (SYN | RST):
                self.established = True
        self.from_client.any = True

    def note_backend(self, packet: Packet, now: int) -> None:
        self.last_seen = now
        if self.protocol == TCP:
            opening = not self.established
            _note_tcp(self.from_backend, self.from_client, packet, opening=opening)
        self.from_backend.any = True


def _note_tcp(mine: Side, other: Side, packet: Packet, *, opening: bool) -> None:
    """RFC 5961: a RST counts only at exactly the sequence number the other side expects."""
    sequence, acknowledgement = struct.unpack_from("!II", packet.frame, packet.l4 + 4)
    if packet.flags & RST:
        if (opening and other.ack is None) or sequence == other.ack:
            mine.rst = True
        mine.rst_near |= other.ack is None or (sequence - other.ack) % 2**32 < 65536
        return
    mine.rst = mine.rst_near = False
    mine.syn |= bool(packet.flags & SYN)
    mine.fin |= bool(packet.flags & FIN)
    if packet.flags & ACK:
        mine.ack = acknowledgement


@dataclass(slots=True)
class Tracker:
    """Flows by both of their tuples. No two live flows share one (D102)."""

    world: World
    forward: dict[ForwardKey, Flow] = field(default_factory=dict)
    reply: dict[ReplyKey, Flow] = field(default_factory=dict)
    direct: dict[ReplyKey, int] = field(default_factory=dict)
    """Tuples of connections that bypass us, and when the backend last used them (D85)."""

    def find_forward(
        self, zone: Zone, protocol: int, client: Endpoint, frontend: Endpoint, now: int
    ) -> Flow | None:
        return self._alive(self.forward.get((zone, protocol, client, frontend)), now)

    def find_reply(
        self, zone: Zone, protocol: int, backend: Endpoint, source: Endpoint, now: int
    ) -> Flow | None:
        return self._alive(self.reply.get((zone, protocol, backend, source)), now)

    def find_foreign(
        self, zone: Zone, protocol: int, client: Endpoint, frontend: Endpoint, now: int
    ) -> Flow | None:
        """A flow of this tuple whose client is not met by the hooks of the zone it is kept in."""
        elsewhere = Zone.POD if zone is Zone.OUTSIDE else Zone.OUTSIDE
        for client_zone in (zone, elsewhere):
            flow = self.find_forward(client_zone, protocol, client, frontend, now)
            if flow and flow.zone is zone and (flow.is_nodes or client_zone is elsewhere):
                return flow
        return None

    def _alive(self, flow: Flow | None, now: int) -> Flow | None:
        return flow if flow and flow.is_alive(self.world.lifetimes, now) else None

    def add(self, flow: Flow) -> None:
        """Put it in, in place of whatever had its tuples before."""
        claimed = (flow.zone, *flow.forward_key[1:])  # by somebody at the other hook, if crossing
        for stale in (
            self.forward.get(flow.forward_key),
            self.forward.get(claimed),
            self.reply.get(flow.reply_key),
        ):
            if stale is not None:
                self.remove(stale)
        self.direct.pop(flow.reply_key, None)
        self.forward[flow.forward_key] = flow
        self.reply[flow.reply_key] = flow

    def remove(self, flow: Flow) -> None:
        self.forward.pop(flow.forward_key, None)
        self.reply.pop(flow.reply_key, None)

    def leave_to_direct(self, flow: Flow, now: int) -> None:
        self.remove(flow)
        self.direct[flow.reply_key] = now

    def is_direct(self, key: ReplyKey, now: int) -> bool:
        """Remembered as long as a connection nobody confirmed."""
        seen = self.direct.get(key)
        return seen is not None and now - seen <= self.world.lifetimes.transitory

    def alive(self, now: int) -> Iterator[Flow]:
        return (f for f in self.forward.values() if f.is_alive(self.world.lifetimes, now))

    def taken(self, zone: Zone, protocol: int, backend: Endpoint, source: Endpoint) -> bool:
        """Also an expired entry may still stand in a table: see PortChoice."""
        return (zone, protocol, backend, source) in self.reply
