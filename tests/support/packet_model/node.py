# SPDX-License-Identifier: Apache-2.0
"""Programs of the node that no socket hook has served: their packets where they leave.

By an uplink, or by loopback for the node's own addresses. Nothing leaves for a ClusterIP but
through here (R37); policies bind them like pods (R51), and they need no source check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.support.packet_model.answers import TOO_BIG, is_echo_request
from tests.support.packet_model.connect import Connecting
from tests.support.packet_model.decide import Decision, Kind, decide_for_node
from tests.support.packet_model.outcome import Action, Alternative, Chooser, Outcome
from tests.support.packet_model.rewrite import rewritten
from tests.support.packet_model.state import State
from tests.support.packet_model.tracking import Flow, Zone
from tests.support.packet_model.translate import MAY_COUNT, At, Translating
from tests.support.packet_model.wire import TCP, UDP, Endpoint, Packet
from tests.support.packet_model.world import LOCAL, Backend, Frontend
from vipbee.abi import AddressFlag, Reason

LOOPBACK = 1
VIP = AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL


class NodeClients:
    def __init__(self, state: State, translating: Translating, connecting: Connecting) -> None:
        self.state = state
        self.translating = translating
        self.connecting = connecting

    def concerns(self, packet: Packet, at: At) -> bool:
        """Is this packet, on its way out, for a VIP, or for a NodePort of the node itself?"""
        flags = self.state.world.flags(packet.destination)
        if at.zone is not Zone.OUTSIDE:
            return False
        if flags & VIP:
            return True
        return (
            bool(flags & AddressFlag.OWN and not flags & AddressFlag.HOST_ONLY)
            and packet.protocol in (TCP, UDP)
            and packet.defect is None
            and not packet.is_later_fragment
            and packet.destination_port in self.state.world.node_ports
        )

    def out(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        world = self.state.world
        is_cluster_ip = bool(world.flags(packet.destination) & AddressFlag.CLUSTER_IP)
        stays = _passed("R40: not our port")
        if not world.flags(packet.source) & AddressFlag.SNAT:
            drop = _dropped("R37: forwarded for others", Reason.CLUSTER_IP_OUTSIDE)
            return (drop,) if is_cluster_ip else (stays,)
        if packet.is_icmp and not packet.is_later_fragment:
            if packet.defect is not None:
                return (_dropped("D3", Reason.MALFORMED), stays)
            if not is_cluster_ip:
                return (stays,)
            echo = is_echo_request(packet)
            return (_dropped("R39", Reason.ECHO_IGNORED if echo else Reason.ICMP_UNKNOWN),)
        if packet.protocol not in (TCP, UDP):
            return (_dropped("D14", Reason.PROTOCOL),) if is_cluster_ip else (stays,)
        if packet.defect is not None:
            reasons = (Reason.MALFORMED, Reason.FRAGMENT_TINY)
            return tuple(_dropped(packet.defect, reason) for reason in reasons)
        if packet.is_later_fragment:
            return self._later(packet, at)
        return self._tracked(packet, at)

    def _later(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        assert packet.fragment is not None
        if packet.protocol == TCP and packet.fragment.offset < 20:
            return (_dropped("D27", Reason.FRAGMENT_TINY),)
        known = self.state.ports_of(packet, at.now)
        orphan = _dropped("D25", Reason.FRAGMENT_UNKNOWN)
        if known is None:
            return (orphan,)
        packet = packet.with_ports(*known)
        flow = self._flow(packet, at)
        if flow is not None:
            return self._forward(flow, packet, at)
        if self.state.world.lookup(packet.dialled, packet.protocol) is None:
            return (_passed("R40: as the first one"),)
        return (orphan,)

    def _flow(self, packet: Packet, at: At) -> Flow | None:
        for zone in Zone:
            tuples = (zone, packet.protocol, packet.client, packet.dialled)
            flow = self.state.tracker.find_forward(*tuples, at.now)
            if flow is not None:
                return flow
        return None

    def _tracked(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        flow = self._flow(packet, at)
        if flow is not None and self.connecting.continues(flow, packet):
            return self._forward(flow, packet, at)
        found: list[Alternative] = []
        for decision in decide_for_node(self.state.world, packet):
            found += self._carried_out(decision, packet, at, flow)
        return tuple(found)

    def _carried_out(
        self, decision: Decision, packet: Packet, at: At, replaces: Flow | None
    ) -> list[Alternative]:
        if decision.kind is Kind.DROP:
            assert decision.reason is not None
            return [_swallowed(decision.rule, decision.reason)]
        if decision.kind is not Kind.CONNECT:
            return self.connecting.carried_out(decision, packet, at, replaces)
        assert decision.frontend is not None
        allowed = self.state.remembered(decision.frontend, decision.backends, packet.source, at.now)
        if replaces is not None and replaces.is_bound(self.state.world):
            old = self.state.world.backends[replaces.backend_id]
            allowed = allowed if old in allowed else (*allowed, old)
        alternatives: list[Alternative] = []
        for backend in self.state.random.sample(allowed, len(allowed)):
            alternatives += self._to(backend, packet, at, decision.frontend, replaces)
        return alternatives

    def _to(
        self, backend: Backend, packet: Packet, at: At, frontend: Frontend, replaces: Flow | None
    ) -> list[Alternative]:
        world = self.state.world
        ifindex = world.route(backend.address)
        if ifindex is None:
            return [_dropped("no way there", Reason.NO_ROUTE)]
        device = world.devices.get(ifindex)
        is_here = ifindex != LOCAL and (backend.is_on_node or bool(device and device.is_pod))
        address = packet.source
        if world.flags(address) & VIP or not (is_here or ifindex in (LOCAL, at.ifindex)):
            address = world.devices[ifindex or LOOPBACK].source(packet.family)
        there = replace(at, zone=Zone.POD if is_here else Zone.OUTSIDE)
        if ifindex and packet.end - packet.l3 > world.devices[ifindex].mtu:
            mtu = world.devices[ifindex].mtu
            return list(
                self.translating.told_to_sender(packet, at, TOO_BIG, Reason.TOO_BIG, mtu=mtu)
            )

        def run(chooser: Chooser) -> tuple[Outcome, Callable[[], None]]:
            chosen = chooser.backend((backend,))
            port = self.connecting.source_port(chooser, packet, there, chosen, address, replaces)
            flow = Flow(
                zone=there.zone,
                protocol=packet.protocol,
                client=packet.client,
                frontend=packet.dialled,
                backend=chosen.endpoint,
                source=Endpoint(address, port),
                service_id=frontend.service_id,
                backend_id=chosen.id,
                generation=chosen.generation,
                redirected=ifindex != LOCAL,
                last_seen=at.now,
                is_nodes=True,
            )
            (translation, *_) = self._forward(flow, packet, at)
            outcome, note = translation.run(chooser)

            def commit() -> None:
                if replaces is not None:
                    self.state.tracker.remove(replaces)
                self.state.tracker.add(flow)
                self.state.note_affinity(frontend, chosen, packet.source, at.now)
                note()

            may = outcome.may_count | {Reason.SNAT_MOVED} if port != packet.source_port else None
            return (replace(outcome, may_count=may) if may else outcome), commit

        return [Alternative(self._action(ifindex, at), run)]

    @staticmethod
    def _action(ifindex: int, at: At) -> Action:
        """In place only from loopback to the node itself."""
        return Action.PASS if ifindex == LOCAL and at.ifindex == LOOPBACK else Action.REDIRECT

    def _forward(self, flow: Flow, packet: Packet, at: At) -> tuple[Alternative, ...]:
        ifindex = self.state.world.route(flow.backend.address)
        if ifindex is None:
            return (_dropped("no way there", Reason.NO_ROUTE),)
        if ifindex and packet.end - packet.l3 > self.state.world.devices[ifindex].mtu:
            mtu = self.state.world.devices[ifindex].mtu
            return self.translating.told_to_sender(packet, at, TOO_BIG, Reason.TOO_BIG, mtu=mtu)
        source = flow.source if flow.source != flow.client else None
        outcome = Outcome(
            self._action(ifindex, at),
            "R41, R51",
            frame=rewritten(packet, source=source, destination=flow.backend),
            may_count=MAY_COUNT,
            ifindex=ifindex or LOOPBACK,
        )
        return (
            Alternative.of(
                outcome, lambda: self.translating.note(flow, packet, at, from_client=True)
            ),
        )

    def reply(self, flow: Flow, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """Restored where it comes in, and given to the stack where it expects the VIP."""
        frame = rewritten(packet, source=flow.frontend, destination=flow.client)
        actions = [Action.REDIRECT]
        if (expected := self.state.world.route(flow.frontend.address)) != LOCAL:
            actions = [Action.PASS] if expected == at.ifindex else [Action.REDIRECT, Action.PASS]
        return tuple(
            Alternative.of(
                Outcome(action, "R121", frame=frame, may_count=MAY_COUNT),
                lambda: self.translating.note(flow, packet, at, from_client=False),
            )
            for action in actions
        )


def _passed(rule: str) -> Alternative:
    return Alternative.of(Outcome(Action.PASS, rule))


def _dropped(rule: str, reason: Reason) -> Alternative:
    return Alternative.of(Outcome(Action.DROP, rule, reasons=(reason,)))


def _swallowed(rule: str, reason: Reason) -> Alternative:
    """Dropped without a word to the sending socket: handed to loopback for nobody's address."""

    def check(frame: bytes) -> str | None:
        return None if any(frame[:6]) else "the stack would take it"

    return Alternative.of(Outcome(Action.REDIRECT, rule, reasons=(reason,), reply=check))
