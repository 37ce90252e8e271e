# SPDX-License-Identifier: Apache-2.0
"""The first packet of a connection: backend, path, source port; or the refusal (D75-D115)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tests.support.packet_model.answers import PORT_UNREACHABLE, error_about, reset_of
from tests.support.packet_model.decide import Decision, Kind, decide, is_clean_syn, is_martian
from tests.support.packet_model.outcome import (
    Action,
    Alternative,
    Chooser,
    DisagreementError,
    Outcome,
)
from tests.support.packet_model.state import State
from tests.support.packet_model.tracking import Flow, Zone
from tests.support.packet_model.translate import At, Translating
from tests.support.packet_model.wire import RST, TCP, Endpoint, Packet
from tests.support.packet_model.world import LOCAL, Backend, Frontend
from vipbee.abi import AddressFlag, FrontendKind, Reason

SCARCE = 0.5
"""Of the port range taken towards one backend: from here on probing may give up (D104)."""


class Path(NamedTuple):
    is_redirected: bool  # bypasses the stack, so the source is the node's
    ifindex: int | None  # device it leaves by then
    replies: Zone  # of the hook that they are restored at


class Connecting:
    def __init__(self, state: State, translating: Translating) -> None:
        self.state = state
        self.translating = translating

    def continues(self, flow: Flow, packet: Packet) -> bool:
        """Does this packet belong to the connection, or begin a new one on its tuple?"""
        if packet.protocol == TCP and not is_clean_syn(packet) and flow.from_backend.syn:
            return True  # the backend has agreed: to the client that is a connection (R34)
        if not flow.is_bound(self.state.world):
            return False  # D77, R111: choose again
        return not (packet.protocol == TCP and is_clean_syn(packet) and flow.is_closed)

    def new(self, packet: Packet, at: At, *, replaces: Flow | None) -> tuple[Alternative, ...]:
        """`replaces`: a connection on the same tuple that is over (D75)."""
        alternatives: list[Alternative] = []
        for decision in decide(self.state.world, packet, at.zone):
            alternatives += self.carried_out(decision, packet, at, replaces)
        return tuple(alternatives)

    def carried_out(
        self, decision: Decision, packet: Packet, at: At, replaces: Flow | None
    ) -> list[Alternative]:
        reasons = () if decision.reason is None else (decision.reason,)
        match decision.kind:
            case Kind.PASS:
                outcome = Outcome(Action.PASS, decision.rule, may_count=frozenset(reasons))
                flags = self.state.world.flags(packet.destination)

                def commit() -> None:
                    """The later parts are to pass too, and not to be held (R40, D23)."""
                    if flags & AddressFlag.EXTERNAL or not at.is_out:
                        self.state.note_fragment(packet, at.now)

                return [Alternative.of(outcome, commit)]
            case Kind.DROP:
                return [Alternative.of(Outcome(Action.DROP, decision.rule, reasons=reasons))]
            case Kind.REFUSE:
                return self._refused(packet, at, decision.rule, reasons)
        assert decision.frontend is not None
        return self._connected(packet, at, decision.frontend, decision.backends, replaces)

    # ---- refusal -------------------------------------------------------------------------

    def _refused(
        self, packet: Packet, at: At, rule: str, reasons: tuple[Reason, ...]
    ) -> list[Alternative]:
        """RST or port unreachable, rate limited; never in answer to a RST or a martian."""
        limited = Outcome(
            Action.DROP, rule, reasons=reasons, may_count=frozenset({Reason.REFUSAL_LIMITED})
        )
        if is_martian(self.state.world, packet) and not at.is_out:
            martian = Outcome(Action.DROP, "D146", reasons=(Reason.MARTIAN,))
            return [Alternative.of(martian), Alternative.of(limited)]
        if packet.protocol == TCP and packet.flags & RST:
            return [Alternative.of(limited)]
        if packet.protocol == TCP:
            check = reset_of(packet, has_ethernet=at.has_ethernet)
        else:
            check = error_about(packet, PORT_UNREACHABLE, has_ethernet=at.has_ethernet)
        answer = Outcome(Action.REDIRECT, rule, reasons=reasons, reply=check, ifindex=at.ifindex)
        return [Alternative.of(answer), Alternative.of(limited)]

    # ---- connection ----------------------------------------------------------------------

    def _connected(
        self,
        packet: Packet,
        at: At,
        frontend: Frontend,
        backends: tuple[Backend, ...],
        replaces: Flow | None,
    ) -> list[Alternative]:
        allowed = self.state.remembered(frontend, backends, packet.source, at.now)
        if replaces is not None and replaces.is_bound(self.state.world):
            old = self.state.world.backends[replaces.backend_id]
            allowed = allowed if old in allowed else (*allowed, old)
        allowed = tuple(self.state.random.sample(allowed, len(allowed)))  # which is preferred
        by_path: dict[Path, list[Backend]] = {}
        for backend in allowed:
            path = self._path(frontend, backend, packet, at)
            by_path.setdefault(path, []).append(backend)
        alternatives = []
        for path, group in by_path.items():
            alternatives += self._by_path(packet, at, frontend, tuple(group), path, replaces)
        return alternatives

    def _path(self, frontend: Frontend, backend: Backend, packet: Packet, at: At) -> Path:
        ifindex = self.state.world.route(backend.address)
        device = self.state.world.devices.get(ifindex or 0)
        is_here = backend.is_on_node or (device is not None and device.is_pod)
        replies = Zone.POD if is_here else Zone.OUTSIDE
        to_stack = Path(is_redirected=False, ifindex=None, replies=at.zone)
        if ifindex == LOCAL:  # of masqueraded ones too: nothing leaves (R56)
            return to_stack
        if self.state.world.masquerade_all and frontend.kind == FrontendKind.CLUSTER_IP:
            return Path(is_redirected=True, ifindex=ifindex, replies=replies)
        if at.zone is Zone.POD:
            is_hairpin = backend.address == packet.source
            return (
                Path(is_redirected=True, ifindex=ifindex, replies=at.zone)
                if is_hairpin
                else to_stack
            )
        return to_stack if is_here else Path(is_redirected=True, ifindex=ifindex, replies=at.zone)

    def _by_path(
        self,
        packet: Packet,
        at: At,
        frontend: Frontend,
        backends: tuple[Backend, ...],
        path: Path,
        replaces: Flow | None,
    ) -> list[Alternative]:
        address = packet.source
        if path.is_redirected:
            if not path.ifindex:
                outcome = Outcome(Action.DROP, "no way there", reasons=(Reason.NO_ROUTE,))
                return [Alternative.of(outcome)]
            address = self.state.world.devices[path.ifindex].source(packet.family)
            if not any(address):
                outcome = Outcome(Action.DROP, "R60", reasons=(Reason.SNAT_NO_ADDRESS,))
                return [Alternative.of(outcome)]
        if path.is_redirected and packet.ttl <= 1:
            made_up = self._flow(packet, at, frontend, backends[0], Endpoint(address, 0), path)
            return list(self.translating.forward(made_up, packet, at))

        def run(chooser: Chooser) -> tuple[Outcome, Callable[[], None]]:
            backend = chooser.backend(backends)
            there = replace(at, zone=path.replies)
            claim = self._claim(packet, at, path)
            port = self.source_port(chooser, packet, there, backend, address, replaces, claim)
            source = Endpoint(address, port)
            flow = self._flow(packet, at, frontend, backend, source, path)
            (translation, *_) = self.translating.forward(flow, packet, at)
            outcome, note = translation.run(chooser)
            moved = port != packet.source_port

            def commit() -> None:
                if replaces is not None:  # only now: else the old backend may still answer
                    self.state.tracker.remove(replaces)
                self.state.tracker.add(flow)
                self.state.note_affinity(frontend, backend, packet.source, at.now)
                note()

            return _with_moved(outcome, moved=moved), commit

        action = Action.REDIRECT if path.is_redirected else Action.PASS
        exhausted = self._exhausted(packet, at, backends, address, path.replies)
        return [Alternative(action, run), *exhausted]

    def _claim(self, packet: Packet, at: At, path: Path) -> Flow | None:
        """What somebody at the other hook has opened as this client; it gives way."""
        if path.replies is at.zone:
            return None
        key = (path.replies, packet.protocol, packet.client, packet.dialled)
        return self.state.tracker.forward.get(key)

    def _flow(
        self,
        packet: Packet,
        at: At,
        frontend: Frontend,
        backend: Backend,
        source: Endpoint,
        path: Path,
    ) -> Flow:
        return Flow(
            zone=path.replies,
            client_zone=at.zone,
            protocol=packet.protocol,
            client=packet.client,
            frontend=packet.dialled,
            backend=backend.endpoint,
            source=source,
            service_id=frontend.service_id,
            backend_id=backend.id,
            generation=backend.generation,
            redirected=path.is_redirected,
            last_seen=at.now,
        )

    # ---- source port ---------------------------------------------------------------------

    def source_port(
        self,
        chooser: Chooser,
        packet: Packet,
        at: At,
        backend: Backend,
        address: bytes,
        *gone: Flow | None,
    ) -> int:
        """D100-D107: kept when free; never one that two connections would share."""
        world, tracker = self.state.world, self.state.tracker

        def is_free(port: int) -> bool:
            source = Endpoint(address, port)
            flow = tracker.find_reply(at.zone, packet.protocol, backend.endpoint, source, at.now)
            own = (packet.protocol, source, backend.endpoint) in world.node_sockets
            key = (at.zone, packet.protocol, backend.endpoint, source)
            is_direct = tracker.is_direct(key, at.now)
            return (flow is None or flow in gone) and not own and not is_direct

        wish = packet.source_port
        keep: int | None = wish if is_free(wish) else None
        is_nodes = bool(world.flags(address) & (AddressFlag.SNAT | AddressFlag.OWN))
        if is_nodes and (wish < 1024 or wish in world.node_ports):
            keep = None  # R94, D107: NodePorts and system ports of the node
        return chooser.source_port(keep, world.snat_ports, is_free)

    def _exhausted(
        self,
        packet: Packet,
        at: At,
        backends: tuple[Backend, ...],
        address: bytes,
        replies: Zone,
    ) -> list[Alternative]:
        def run(_chooser: Chooser) -> tuple[Outcome, Callable[[], None]]:
            reply = self.state.tracker.reply
            ends = {b.endpoint for b in backends}
            taken = sum(
                zone == replies and backend in ends and source.address == address
                for zone, _, backend, source in reply
            )
            if taken < SCARCE * len(self.state.world.snat_ports):
                raise DisagreementError(
                    f"refused although only {taken} ports are taken (D103, D104)"
                )
            return refusal.run(_chooser)

        refusal, *rest = self._refused(packet, at, "D103", (Reason.SNAT_EXHAUSTED,))
        actions = [refusal, *rest]
        return [Alternative(each.action, _guarded(run, each)) for each in actions]


def _guarded(
    guard: Callable[[Chooser], tuple[Outcome, Callable[[], None]]], alternative: Alternative
) -> Callable[[Chooser], tuple[Outcome, Callable[[], None]]]:
    def run(chooser: Chooser) -> tuple[Outcome, Callable[[], None]]:
        guard(chooser)
        return alternative.run(chooser)

    return run


def _with_moved(outcome: Outcome, *, moved: bool) -> Outcome:
    if not moved or outcome.action is Action.DROP:
        return outcome
    return Outcome(
        outcome.action,
        outcome.rule,
        frame=outcome.frame,
        reasons=outcome.reasons,
        may_count=outcome.may_count | {Reason.SNAT_MOVED},
        reply=outcome.reply,
        ifindex=outcome.ifindex,
    )
