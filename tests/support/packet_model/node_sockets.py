# SPDX-License-Identifier: Apache-2.0
"""The node's own sockets, to somebody who is no VIP: their replies must come back (D106, R94).

A reply of a remote backend is told by its tuple alone. If a connection that bypasses the stack
has that tuple, a socket that comes later gets another source port, and keeps it to its end.
A datagram to the number of a NodePort is an answer if the node sent from there before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.support.packet_model.connect import Connecting
from tests.support.packet_model.decide import is_clean_syn
from tests.support.packet_model.outcome import Action, Alternative, Chooser, Outcome
from tests.support.packet_model.rewrite import rewritten
from tests.support.packet_model.state import State
from tests.support.packet_model.tracking import Flow
from tests.support.packet_model.translate import MAY_COUNT, At, Translating
from tests.support.packet_model.wire import TCP, UDP, Endpoint, Packet
from tests.support.packet_model.world import Backend
from vipbee.abi import BackendFlag, FrontendKind, Reason

NO_SERVICE = 0


class NodeSockets:
    def __init__(self, state: State, translating: Translating, connecting: Connecting) -> None:
        self.state = state
        self.translating = translating
        self.connecting = connecting

    def out(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """Of a whole packet or first part, or one with the ports of it; empty: not concerned."""
        tracker = self.state.tracker
        if packet.source_port in self.state.world.node_ports:
            return self._expecting(packet, at)
        flow = tracker.find_forward(at.zone, packet.protocol, packet.client, packet.dialled, at.now)
        begins = packet.protocol == UDP or is_clean_syn(packet)
        is_over = flow is not None and packet.protocol == TCP and begins and flow.is_closed
        if flow is not None and flow.service_id == NO_SERVICE and not is_over:
            return (self._moved(flow, packet, at),)
        if packet.is_later_fragment or not begins:
            return ()
        key = (at.zone, packet.protocol, packet.dialled, packet.client)
        owner = tracker.find_reply(*key, at.now)
        if owner is not None and owner.redirected:
            return (self._move(packet, at, replaces=flow),)
        if flow is None:
            return ()

        def forget() -> None:
            tracker.remove(flow)

        return (Alternative.of(Outcome(Action.PASS, "D75: the tuple is its own again"), forget),)

    def answer(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        """Has the node sent from the port this datagram is for to its sender? (R94)"""
        if packet.protocol != UDP or packet.is_later_fragment or packet.defect is not None:
            return ()
        frontend = self.state.world.lookup(packet.dialled, UDP)
        seen = self.state.tracker.direct.get((at.zone, UDP, packet.client, packet.dialled))
        if frontend is None or frontend.kind != FrontendKind.NODE_PORT or seen is None:
            return ()
        if at.now - seen > self.state.world.lifetimes.udp:
            return ()
        may = frozenset({Reason.NODE_CONNECTION})
        return (Alternative.of(Outcome(Action.PASS, "R94", may_count=may)),)

    def _expecting(self, packet: Packet, at: At) -> tuple[Alternative, ...]:
        tracker = self.state.tracker
        served = self.state.world.lookup(packet.client, packet.protocol)
        ends = (packet.client, packet.dialled)
        if packet.protocol != UDP or packet.is_later_fragment or served is None:
            return ()
        if (at.zone, UDP, *ends) in tracker.reply:
            return ()  # a backend of the node, to a client of a Service

        def commit() -> None:
            tracker.direct[at.zone, UDP, packet.dialled, packet.client] = at.now

        return (Alternative.of(Outcome(Action.PASS, "R94"), commit),)

    def _moved(self, flow: Flow, packet: Packet, at: At) -> Alternative:
        frame = rewritten(packet, source=flow.source, destination=None)
        outcome = Outcome(Action.PASS, "D106", frame=frame, may_count=MAY_COUNT)
        return Alternative.of(
            outcome, lambda: self.translating.note(flow, packet, at, from_client=True)
        )

    def _move(self, packet: Packet, at: At, *, replaces: Flow | None) -> Alternative:
        backend = Backend(
            id=0,
            address=packet.destination,
            port=packet.destination_port,
            protocol=packet.protocol,
            service_id=NO_SERVICE,
            flags=BackendFlag(0),
            generation=0,
        )

        def run(chooser: Chooser) -> tuple[Outcome, Callable[[], None]]:
            chooser.backend((backend,))
            port = self.connecting.source_port(
                chooser, packet, at, backend, packet.source, replaces
            )
            flow = Flow(
                zone=at.zone,
                protocol=packet.protocol,
                client=packet.client,
                frontend=packet.dialled,
                backend=packet.dialled,
                source=Endpoint(packet.source, port),
                service_id=NO_SERVICE,
                backend_id=backend.id,
                generation=backend.generation,
                redirected=True,
                last_seen=at.now,
                is_nodes=True,
            )
            outcome, note = self._moved(flow, packet, at).run(chooser)

            def commit() -> None:
                if replaces is not None:
                    self.state.tracker.remove(replaces)
                self.state.tracker.add(flow)
                note()

            return replace(outcome, may_count=outcome.may_count | {Reason.SNAT_MOVED}), commit

        return Alternative(Action.PASS, run)
