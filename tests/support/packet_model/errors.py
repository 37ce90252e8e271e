# SPDX-License-Identifier: Apache-2.0
"""ICMP at the hooks: errors about connections, echo to VIPs, and everything else (D48-D67)."""

from __future__ import annotations

from tests.support.packet_model.answers import echo_of, is_echo_request, is_error
from tests.support.packet_model.decide import is_martian
from tests.support.packet_model.icmp import (
    Quote,
    find_quote,
    icmp_checksum_holds,
    quoted_in,
    translated,
)
from tests.support.packet_model.outcome import Action, Alternative, Outcome
from tests.support.packet_model.state import State
from tests.support.packet_model.translate import At, Translating
from tests.support.packet_model.wire import Packet
from tests.support.packet_model.world import is_impossible_source
from vipbee.abi import AddressFlag, Reason


class Errors:
    def __init__(self, state: State, translating: Translating) -> None:
        self.state = state
        self.translating = translating

    # ---- in ------------------------------------------------------------------------------

    def icmp_in(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        if packet.defect is not None:
            reason = Reason.FRAGMENT_TINY if packet.fragment else Reason.MALFORMED
            return (_dropped("D3", reason),)
        if is_error(packet):
            whole = self._error_in(packet, at)
            if packet.fragment is None:
                return whole
            # routers do not fragment errors: whatever comes of half of one, it is no harm
            reasons = (Reason.ICMP_MALFORMED, Reason.ICMP_UNKNOWN)
            return (_passed("D31"), *(_dropped("D31", reason) for reason in reasons), *whole)
        if is_echo_request(packet):
            return self._echo_in(packet, at)
        return (_passed("D67"),)

    def _echo_in(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """R39, D64: answered or ignored, never handed on to where it could loop."""
        flags = self.state.world.flags(packet.destination)
        ignored = _dropped("R39, D64", Reason.ECHO_IGNORED)
        martian = _dropped("D146", Reason.MARTIAN)
        if flags & (AddressFlag.NODE | AddressFlag.SNAT):
            return (_passed("the node answers for itself"),)
        if flags & AddressFlag.CLUSTER_IP:
            return (ignored, martian) if is_martian(self.state.world, packet) else (ignored,)
        if is_martian(self.state.world, packet):
            return (martian, ignored)
        answer = Outcome(
            Action.REDIRECT,
            "D64",
            reasons=(Reason.ECHO_ANSWERED,),
            reply=echo_of(packet, has_ethernet=at.has_ethernet),
            ifindex=at.ifindex,
        )
        limited = Outcome(
            Action.DROP,
            "D64",
            may_count=frozenset({Reason.REFUSAL_LIMITED, Reason.ECHO_ANSWERED}),
        )
        known = (Alternative.of(answer), ignored, Alternative.of(limited))
        # a ping in parts: none of them reaches a backend, so passing them all is R40
        return (*known, _passed("R40")) if packet.fragment is not None else known

    def _error_in(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        quoted = quoted_in(packet)
        if quoted is None:
            return self._not_ours(packet, Reason.ICMP_MALFORMED, "D31, D57")
        quote = find_quote(quoted, self.state.tracker, at.zone, at.now, to_backend=True)
        is_elsewhere = quote is not None and quote.to_client and not quote.flow.redirected
        if quote is not None and is_elsewhere and not quote.flow.is_nodes:
            quote = None  # such errors are restored where they leave
        if quote is None:
            return self._not_ours(packet, Reason.ICMP_UNKNOWN, "D58, D62")
        if not icmp_checksum_holds(packet):
            return (_dropped("D57", Reason.ICMP_MALFORMED),)
        good = self._translated_in(packet, quote, at)
        if is_impossible_source(packet.source):  # routing may refuse it before we look
            good = (*good, _dropped("D146", Reason.NO_ROUTE), _dropped("D146", Reason.MARTIAN))
        return good

    def _not_ours(self, packet: Packet, reason: Reason, rule: str) -> tuple[Alternative, ...]:
        """A node address gets errors about the node's own packets: those must pass."""
        flags = self.state.world.flags(packet.destination)
        if flags & (AddressFlag.NODE | AddressFlag.SNAT):
            may = frozenset({Reason.ICMP_PASSED})
            return (Alternative.of(Outcome(Action.PASS, rule, may_count=may)),)
        other = ({Reason.ICMP_MALFORMED, Reason.ICMP_UNKNOWN} - {reason}).pop()
        return (_dropped(rule, reason), _dropped(rule, other))

    def _translated_in(self, packet: Packet, quote: Quote, at: At) -> tuple[Alternative, ...]:
        flow = quote.flow
        if not quote.to_client and not flow.redirected:
            frame = translated(packet, quote, outer_source=packet.source, ttl_spent=0)
            return (Alternative.of(Outcome(Action.PASS, "D53", frame=frame)),)
        if quote.to_client and flow.is_nodes:
            return tuple(
                Alternative.of(
                    Outcome(
                        Action.PASS,
                        "D48-D56",
                        frame=translated(packet, quote, outer_source=source, ttl_spent=0),
                    )
                )
                for source in self._shown_sources(packet, quote)
            )
        if packet.ttl <= 1:
            return (_dropped("D63", Reason.TTL_EXPIRED),)
        if quote.to_client:
            sources, destination = self._shown_sources(packet, quote), flow.client
        else:
            sources, destination = (flow.source.address,), flow.backend
        ifindex = self.state.world.route(destination.address)
        if not ifindex:
            return (_dropped("no way there", Reason.NO_ROUTE),)
        return tuple(
            Alternative.of(
                Outcome(
                    Action.REDIRECT,
                    "D48-D56, D60",
                    frame=translated(packet, quote, outer_source=source, ttl_spent=1),
                    ifindex=ifindex,
                )
            )
            for source in sources
        )

    def _shown_sources(self, packet: Packet, quote: Quote) -> tuple[bytes, ...]:
        """A backend is shown as its VIP (D51); a router as itself (D55) or as the VIP."""
        vip = quote.flow.frontend.address
        if packet.source == quote.flow.backend.address:
            return (vip,)
        return (packet.source, vip)

    # ---- out -----------------------------------------------------------------------------

    def icmp_out(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """Errors of backends and routers on this side, on their way to the client."""
        unchanged = (_passed("nothing of ours"),)
        if packet.defect is not None or not is_error(packet):
            return unchanged
        quoted = quoted_in(packet)
        if quoted is None:
            return unchanged
        quote = find_quote(quoted, self.state.tracker, at.zone, at.now, to_backend=False)
        if quote is None or quote.flow.redirected:
            return unchanged
        if not icmp_checksum_holds(packet):
            return (_dropped("D57", Reason.ICMP_MALFORMED),)
        return tuple(
            Alternative.of(
                Outcome(
                    Action.PASS,
                    "D51, D56",
                    frame=translated(packet, quote, outer_source=source, ttl_spent=0),
                )
            )
            for source in self._shown_sources(packet, quote)
        )


def _dropped(rule: str, reason: Reason) -> Alternative:
    return Alternative.of(Outcome(Action.DROP, rule, reasons=(reason,)))


def _passed(rule: str) -> Alternative:
    return Alternative.of(Outcome(Action.PASS, rule))
