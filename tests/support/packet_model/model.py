# SPDX-License-Identifier: Apache-2.0
"""The four hooks. `step` says what may come out, follows what did, and keeps the tables.

uplink_in, pod_in     translate, or restore what bypasses the stack
uplink_out, pod_out   restore the replies of backends the stack delivered to
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from enum import StrEnum

from tests.support.packet_model.connect import Connecting
from tests.support.packet_model.decide import is_clean_syn
from tests.support.packet_model.errors import Errors
from tests.support.packet_model.node import NodeClients
from tests.support.packet_model.node_sockets import NodeSockets
from tests.support.packet_model.outcome import (
    Action,
    Alternative,
    DisagreementError,
    FollowChooser,
    Observed,
    Outcome,
    RandomChooser,
    complaint,
    l3_offset,
)
from tests.support.packet_model.state import FragmentKey, State
from tests.support.packet_model.tracking import Flow, Tracker, Zone
from tests.support.packet_model.translate import At, Translating
from tests.support.packet_model.wire import (
    MUST_WALK_HEADERS,
    TCP,
    UDP,
    Broken,
    Defect,
    Packet,
    parse,
)
from tests.support.packet_model.world import World, is_loopback
from vipbee.abi import AddressFlag, Reason


class Hook(StrEnum):
    UPLINK_IN = "uplink_in"
    UPLINK_OUT = "uplink_out"
    POD_IN = "pod_in"
    POD_OUT = "pod_out"

    @property
    def zone(self) -> Zone:
        return Zone.POD if self in (Hook.POD_IN, Hook.POD_OUT) else Zone.OUTSIDE

    @property
    def is_inbound(self) -> bool:
        return self in (Hook.UPLINK_IN, Hook.POD_IN)


ETHERTYPE = {4: 0x0800, 6: 0x86DD}


class Model:
    """See the module. `world` may be exchanged between steps: that is a Service change."""

    def __init__(self, world: World, *, seed: int = 0) -> None:
        self.state = State(world, Tracker(world))
        self.chooser = RandomChooser(seed)
        self.translating = Translating(self.state)
        self.connecting = Connecting(self.state, self.translating)
        self.errors = Errors(self.state, self.translating)
        self.node = NodeClients(self.state, self.translating, self.connecting)
        self.node_sockets = NodeSockets(self.state, self.translating, self.connecting)

    @property
    def world(self) -> World:
        return self.state.world

    @property
    def tracker(self) -> Tracker:
        return self.state.tracker

    def change(self, world: World) -> None:
        self.state.world = self.state.tracker.world = world

    def step(
        self,
        hook: Hook,
        ifindex: int,
        frame: bytes,
        now: int,
        observed: Observed | None = None,
        *,
        own: bool = False,
    ) -> Outcome:
        """Without `observed` take the preferred outcome; raises DisagreementError otherwise.

        `own`: of a socket of the node, not forwarded.
        """
        has_ethernet = self.world.devices[ifindex].has_ethernet
        alternatives = self.alternatives(hook, ifindex, frame, now, own=own)
        if observed is None:
            outcome, commit = alternatives[0].run(self.chooser)
            commit()
            return outcome
        return _follow(alternatives, observed, frame, has_ethernet=has_ethernet)

    def alternatives(
        self, hook: Hook, ifindex: int, frame: bytes, now: int, *, own: bool = False
    ) -> tuple[Alternative, ...]:
        """Everything the rules accept here, preferred first. Changes nothing yet."""
        device = self.world.devices[ifindex]
        at = At(
            hook.zone,
            ifindex,
            now,
            device.has_ethernet,
            is_out=not hook.is_inbound,
            is_own=own,
        )
        packet = parse(
            frame,
            has_ethernet=device.has_ethernet,
            protocol=0x0800 if frame and frame[0] >> 4 == 4 else 0x86DD,
        )
        if isinstance(packet, Broken):
            return self._broken(packet) if hook.is_inbound else (passed("nothing of ours"),)
        return self._inbound(packet, at) if hook.is_inbound else self._outbound(packet, at)

    # ---- in ------------------------------------------------------------------------------

    def _broken(self, broken: Broken) -> tuple[Alternative, ...]:
        if broken.defect is Defect.NOT_IP:
            return (passed("D15"),)
        reasons = [Reason.MALFORMED]
        if broken.defect is Defect.EXTENSIONS:
            reasons = [Reason.EXTENSION_HEADERS]
        drops = [dropped(broken.defect, reason) for reason in reasons]
        may_pass = broken.defect is Defect.VERSION or (
            broken.destination is not None and not self.world.is_ours(broken.destination)
        )
        return (*drops, passed(broken.defect)) if may_pass else tuple(drops)

    def _inbound(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        if is_loopback(packet.destination):
            return (dropped("D145", Reason.MARTIAN),)
        if not self.world.is_ours(packet.destination):
            return (passed("D18: not ours"),)
        extra: tuple[Alternative, ...] = ()
        if packet.headers > MUST_WALK_HEADERS:
            extra = (dropped("D11", Reason.EXTENSION_HEADERS),)
        if packet.is_icmp and not packet.is_later_fragment:
            return (*self.errors.icmp_in(packet, at), *extra)
        if packet.protocol not in (TCP, UDP):
            return (*self._other_protocol(packet), *extra)
        if packet.defect is not None:
            return (*self._l4_defect(packet), *extra)
        if packet.is_later_fragment:
            return (*self._later_fragment_in(packet, at), *extra)
        return (*self._tcp_or_udp_in(packet, at), *extra)

    def _other_protocol(self, packet: Packet) -> tuple[Alternative, ...]:
        if self.world.flags(packet.destination) & AddressFlag.CLUSTER_IP:
            drop = dropped("D14, D136", Reason.PROTOCOL)
            if not packet.is_later_fragment:
                return (drop,)
            return (drop, dropped("D25", Reason.FRAGMENT_UNKNOWN))
        return (passed("D12, D14, D19, R16"),)

    def _l4_defect(self, packet: Packet) -> tuple[Alternative, ...]:
        defect = packet.defect
        assert defect is not None
        if defect is Defect.TINY_FRAGMENT:
            return (dropped(defect, Reason.FRAGMENT_TINY), dropped(defect, Reason.MALFORMED))
        drop = dropped(defect, Reason.MALFORMED)
        if defect in (Defect.TCP_OFFSET, Defect.UDP_LENGTH):
            tiny = dropped(defect, Reason.FRAGMENT_TINY)
            return (drop, passed(defect), tiny) if packet.fragment else (drop, passed(defect))
        return (drop,)

    def _tcp_or_udp_in(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        flow = self.tracker.find_reply(
            at.zone, packet.protocol, packet.client, packet.dialled, at.now
        )
        if flow is not None and flow.redirected:
            return self._backward(flow, packet, at)
        tuples = (at.zone, packet.protocol, packet.client, packet.dialled)
        if self.tracker.find_foreign(*tuples, at.now):
            return (NOT_ITS_CLIENT,)
        flow = self.tracker.find_forward(*tuples, at.now)
        if flow is not None and self.connecting.continues(flow, packet):
            follows = self.translating.forward(flow, packet, at)
            if flow.may_be_closed and not flow.is_closed and is_clean_syn(packet):
                return (*follows, *self.connecting.new(packet, at, replaces=flow))
            return follows
        return self.node_sockets.answer(packet, at) or self.connecting.new(
            packet, at, replaces=flow
        )

    def _backward(self, flow: Flow, packet: Packet, at: At) -> tuple[Alternative, ...]:
        if flow.is_nodes:
            return self.node.reply(flow, packet, at)
        return self.translating.backward_redirected(flow, packet, at)

    def _later_fragment_in(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """D22, D25-D29: as the first one went; an orphan goes nowhere near a backend."""
        assert packet.fragment is not None
        tiny = packet.protocol == TCP and packet.fragment.offset < 20
        known = self.state.ports_of(packet, at.now)
        if tiny:
            drops = (dropped("D27", Reason.FRAGMENT_TINY),)
            return drops if known else (*drops, *self._orphan(packet))
        if known is None:
            return self._orphan(packet)
        with_ports = packet.with_ports(*known)
        tuples = (at.zone, packet.protocol, with_ports.client, with_ports.dialled)
        if self.tracker.find_foreign(*tuples, at.now):
            return (NOT_ITS_CLIENT,)
        flow = self._flow_of(with_ports, at, inbound=True)
        if flow is None and self.world.lookup(with_ports.dialled, packet.protocol) is None:
            return (passed("R40: as the first one"),)
        if flow is None:
            return (
                *self._orphan(packet),
                passed("the first one passed too"),
                dropped("its connection is gone", Reason.NO_CONNECTION),
            )
        if flow.reply_key == (at.zone, packet.protocol, with_ports.client, with_ports.dialled):
            return self._backward(flow, with_ports, at)
        return self.translating.forward(flow, with_ports, at)

    def _orphan(self, packet: Packet) -> tuple[Alternative, ...]:
        """D23: held until its first one comes, while there is a place. The node's own fragmented
        traffic looks the same, so there it must pass, and a copy is held."""
        ours = AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL
        if self.world.flags(packet.destination) & ours:
            held = dropped("D23", Reason.FRAGMENT_HELD)
            return (held, dropped("D25", Reason.FRAGMENT_UNKNOWN))
        held_too = frozenset({Reason.FRAGMENT_HELD})
        return (Alternative.of(Outcome(Action.PASS, "D23: node's", may_count=held_too)),)

    def _flow_of(self, packet: Packet, at: At, *, inbound: bool) -> Flow | None:
        tuples = (at.zone, packet.protocol, packet.client, packet.dialled)
        flow = self.tracker.find_reply(*tuples, at.now)
        if flow is not None and flow.redirected is inbound:
            return flow
        return self.tracker.find_forward(*tuples, at.now) if inbound else None

    # ---- out -----------------------------------------------------------------------------

    def _outbound(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        if self.node.concerns(packet, at):
            return self.node_sockets.answer(packet, at) or self.node.out(packet, at)
        if packet.is_icmp and not packet.is_later_fragment:
            return self.errors.icmp_out(packet, at)
        if packet.protocol not in (TCP, UDP) or packet.defect is not None:
            return (passed("nothing of ours"),)
        if packet.is_later_fragment:
            known = self.state.ports_of(packet, at.now)
            assert packet.fragment is not None
            if known is None or (packet.protocol == TCP and packet.fragment.offset < 20):
                return (passed("nothing of ours"), dropped("D27", Reason.FRAGMENT_TINY))
            packet = packet.with_ports(*known)
        if at.is_own and (found := self.node_sockets.out(packet, at)):
            return found
        flow = self._flow_of(packet, at, inbound=False)
        if flow is None:
            return (self._direct(packet, at),)
        restored = self.translating.backward_to_stack(flow, packet, at)
        leave = functools.partial(self.tracker.leave_to_direct, flow, at.now)
        passes = (Alternative.of(Outcome(Action.PASS, "D85"), leave),)
        if flow.is_another_s(packet, is_closed=flow.is_closed):
            return passes
        if flow.is_another_s(packet, is_closed=flow.may_be_closed):
            return (*restored, *passes)
        return restored

    def _direct(self, packet: Packet, at: At) -> Alternative:
        """Not ours, but maybe of a connection whose tuple is left to it (D85)."""
        key = (at.zone, packet.protocol, packet.client, packet.dialled)

        def commit() -> None:
            if key in self.tracker.direct:
                self.tracker.direct[key] = at.now

        return Alternative.of(Outcome(Action.PASS, "nothing of ours"), commit)

    def fragment_key(self, packet: Packet) -> FragmentKey:
        return self.state.fragment_key(packet)


def _follow(
    alternatives: Sequence[Alternative],
    observed: Observed,
    frame: bytes,
    *,
    has_ethernet: bool,
) -> Outcome:
    complaints = []
    for alternative in alternatives:
        try:
            if alternative.action is not observed.action:
                raise DisagreementError(f"{observed.action} instead of {alternative.action}")
            outcome, commit = alternative.run(FollowChooser(observed, has_ethernet=has_ethernet))
        except DisagreementError as error:
            complaints.append(str(error))
            continue
        l3 = l3_offset(has_ethernet=has_ethernet)
        wrong = complaint(outcome, observed, frame, l3=l3)
        if wrong is None:
            commit()
            return outcome
        complaints.append(f"[{outcome.rule}] {wrong}")
    raise DisagreementError("\n".join([f"got {observed.summary}; the rules accept:", *complaints]))


def passed(rule: str) -> Alternative:
    return Alternative.of(Outcome(Action.PASS, rule))


def dropped(rule: str, reason: Reason) -> Alternative:
    return Alternative.of(Outcome(Action.DROP, rule, reasons=(reason,)))


NOT_ITS_CLIENT = dropped("D146: its client does not come in by this hook", Reason.MARTIAN)
