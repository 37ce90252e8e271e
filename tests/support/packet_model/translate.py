# SPDX-License-Identifier: Apache-2.0
"""Packets of a connection that is known: forward to the backend, back to the client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.packet_model.answers import TIME_EXCEEDED, TOO_BIG, error_about
from tests.support.packet_model.outcome import Action, Alternative, Outcome
from tests.support.packet_model.rewrite import rewritten
from tests.support.packet_model.state import State
from tests.support.packet_model.tracking import Flow, Zone
from tests.support.packet_model.wire import Endpoint, Packet
from vipbee.abi import Reason

MAY_COUNT = frozenset({Reason.ESTABLISHED_FULL, Reason.TWIN_REPAIRED})
"""Remarks about tables that a test of packets does not care for."""


@dataclass(frozen=True, slots=True)
class At:
    """Where and when a packet is seen."""

    zone: Zone
    ifindex: int
    now: int
    has_ethernet: bool
    is_out: bool = False  # leaving: so the sender is this node
    is_own: bool = False  # of a socket of the node, not forwarded


class Translating:
    def __init__(self, state: State) -> None:
        self.state = state

    def forward(self, flow: Flow, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """To the backend."""

        def commit() -> None:
            self.note(flow, packet, at, from_client=True)

        source = flow.source if flow.source != flow.client else None
        if not flow.redirected:
            frame = rewritten(packet, source=source, destination=flow.backend)
            return (self.to_stack(frame, "D21, R48, R55", commit),)
        return self.redirected(packet, at, flow.source, flow.backend, commit)

    def backward_redirected(self, flow: Flow, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """From a remote backend, or the hairpin's second half."""

        def commit() -> None:
            self.note(flow, packet, at, from_client=False)

        return self.redirected(packet, at, flow.frontend, flow.client, commit)

    def backward_to_stack(self, flow: Flow, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """From a backend on this node, on its way out (R121)."""

        def commit() -> None:
            self.note(flow, packet, at, from_client=False)

        destination = flow.client if flow.client != flow.source else None
        frame = rewritten(packet, source=flow.frontend, destination=destination)
        return (self.to_stack(frame, "R121", commit),)

    def note(self, flow: Flow, packet: Packet, at: At, *, from_client: bool) -> None:
        self.state.note_fragment(packet, at.now)
        if packet.is_later_fragment:
            return  # shows no flags; whether it refreshes is nobody's business
        (flow.note_client if from_client else flow.note_backend)(packet, at.now)

    def to_stack(self, frame: bytes, rule: str, commit: Callable[[], None]) -> Alternative:
        return Alternative.of(Outcome(Action.PASS, rule, frame=frame, may_count=MAY_COUNT), commit)

    def redirected(
        self,
        packet: Packet,
        at: At,
        source: Endpoint,
        destination: Endpoint,
        commit: Callable[[], None],
        may_count: frozenset[Reason] = frozenset(),
    ) -> tuple[Alternative, ...]:
        """Forwarded by us: as a router does it (D63, D153, RFC 1812)."""
        if packet.ttl <= 1:
            return self.told_to_sender(packet, at, TIME_EXCEEDED, Reason.TTL_EXPIRED)
        ifindex = self.state.world.route(destination.address)
        if not ifindex:
            drop = Outcome(Action.DROP, "no way there", reasons=(Reason.NO_ROUTE,))
            return (Alternative.of(drop),)
        mtu = self.state.world.devices[ifindex].mtu
        if packet.end - packet.l3 > mtu:
            return self.told_to_sender(packet, at, TOO_BIG, Reason.TOO_BIG, mtu=mtu)
        outcome = Outcome(
            Action.REDIRECT,
            "R47, R59, D48",
            frame=rewritten(packet, source=source, destination=destination, ttl_spent=1),
            may_count=MAY_COUNT | may_count,
            ifindex=ifindex,
        )
        return (Alternative.of(outcome, commit),)

    def told_to_sender(
        self,
        packet: Packet,
        at: At,
        kind: dict[int, tuple[int, int]],
        reason: Reason,
        *,
        mtu: int | None = None,
    ) -> tuple[Alternative, ...]:
        """An ICMP error to the sender, or silence where the rate limit or the packet says so."""
        drop = Alternative.of(
            Outcome(
                Action.DROP,
                "D63, D53",
                reasons=(reason,),
                may_count=frozenset({Reason.REFUSAL_LIMITED}),
            )
        )
        if packet.is_icmp or packet.is_later_fragment:
            return (drop,)
        check = error_about(packet, kind, has_ethernet=at.has_ethernet, mtu=mtu)
        answer = Outcome(Action.REDIRECT, "D63, D53", reasons=(reason,), reply=check)
        return (Alternative.of(answer), drop)
