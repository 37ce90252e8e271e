# SPDX-License-Identifier: Apache-2.0
"""What `explain` foretells beside what the shipped packet programs do, on a Bench.

with Foreteller(bench) as foreteller:
    answer = foreteller.ask(packet)        # before
    happened = what_happens(bench, packet) # to the packet, in the C alone
    assert complaint(answer, happened) is None
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from types import TracebackType

from tests.support.packet_bench import Bench
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.program import mapped
from tests.support.packet_model.wire import TCP, Endpoint, Packet, parse
from tests.support.packet_model.world import is_loopback
from vipbee.abi import AddressFlag, Reason
from vipbee.address import format_address
from vipbee.datapath.hooks import read_config
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.packets import at_packets
from vipbee.observe.explain.question import Question
from vipbee.observe.explain.senders import find_senders
from vipbee.observe.explain.settings import Settings
from vipbee.observe.explain.view import AnswerView, Path, Verdict

REFUSALS = {Reason.NO_ENDPOINT, Reason.UNKNOWN_PORT}
BESIDE = {Reason.SNAT_MOVED, Reason.TWIN_REPAIRED, Reason.NODE_CONNECTION, Reason.REFUSAL_LIMITED}
"""Counted without changing what happens."""


@dataclass(frozen=True)
class Sent:
    """A packet, and where it is met first."""

    hook: Hook
    device: str
    source: Endpoint
    destination: Endpoint
    protocol: int = TCP
    flags: str = "S"
    by: str | int | None = None  # the device that is told, or its index; None: none
    numbers: tuple[int, int] = (30_000, 5001)  # sequence, acknowledgement

    def frame(self) -> bytes:
        sequence, acknowledgement = self.numbers
        return Segment(
            self.source, self.destination, self.protocol, self.flags, sequence, acknowledgement
        ).frame()

    def from_port(self, port: int) -> Sent:
        return replace(self, source=Endpoint(self.source.address, port))


@dataclass(frozen=True)
class Happened:
    verdict: Verdict
    reason: Reason | None = None
    backend: Endpoint | None = None  # the packet's destination now
    source: Endpoint | None = None
    action: Action = Action.PASS


class Foreteller:
    """The product's own reading of a Bench's maps."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._layouts = load_layouts()
        maps = _Unpinned(bench)
        self._tables = KernelTables(maps, self._layouts)
        config = read_config(maps, self._layouts)
        assert config is not None
        self._settings = Settings.of(config, has_socket_hooks=False)

    def __enter__(self) -> Foreteller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tables.close()

    def ask(self, sent: Sent) -> AnswerView:
        """What is said about packets."""
        question = Question(
            address=mapped(sent.destination.address),
            port=sent.destination.port,
            protocol=sent.protocol,
            source=mapped(sent.source.address),
            source_port=sent.source.port,
            ifindex=self._bench.ifindexes[sent.by] if isinstance(sent.by, str) else sent.by,
            is_first="S" in sent.flags,
        )
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        lookups = Lookups(self._tables, self._layouts, self._settings, now_ns=now_ns)
        (sender,) = find_senders(question, lookups)
        return at_packets(question, sender, lookups)


class _Unpinned:
    """A `Pinned` of maps that only the Bench has."""

    def __init__(self, bench: Bench) -> None:
        self._datapath = bench.datapath

    def get(self, kind: str, name: str) -> int | None:
        return os.dup(self._datapath.map_fd(name)) if kind == "maps" else None


def what_happens(bench: Bench, sent: Sent) -> Happened:
    """In the C alone; what goes on to the stack for others is met again where it leaves."""
    before = sent.frame()
    happened = _at(bench, sent.hook, sent.device, before)
    to = sent.destination.address
    is_untouched = happened.verdict is Verdict.PASS and happened.reason is None
    if is_untouched and sent.hook.is_inbound and not _is_for_us(bench, to):
        device = bench.model.world.devices[bench.model.world.route(to) or 0]
        return _at(bench, Hook.POD_OUT if device.is_pod else Hook.UPLINK_OUT, device.name, before)
    return happened


def _is_for_us(bench: Bench, address: bytes) -> bool:
    flags = bench.model.world.flags(address)
    return is_loopback(address) or bool(flags & (AddressFlag.OWN | AddressFlag.SNAT))


def _at(bench: Bench, hook: Hook, device: str, before: bytes) -> Happened:
    observed = bench.run(hook, device, before)
    counted = [reason for reason in observed.reasons if reason not in BESIDE]
    assert len(counted) <= 1, observed.summary
    if counted:
        verdict = Verdict.REFUSE if counted[0] in REFUSALS else Verdict.DROP
        return Happened(verdict, counted[0], action=observed.action)
    if observed.frame == before:
        assert observed.action is Action.PASS, observed.summary
        passed = Reason.NODE_CONNECTION if Reason.NODE_CONNECTION in observed.reasons else None
        return Happened(Verdict.PASS, passed)
    after = parse(observed.frame)
    assert isinstance(after, Packet)
    verdict = Verdict.RESTORE if _is_from_frontend(bench, after) else Verdict.TRANSLATE
    return Happened(verdict, None, after.dialled, after.client, observed.action)


def _is_from_frontend(bench: Bench, packet: Packet) -> bool:
    return bench.model.world.lookup(packet.client, packet.protocol) is not None


_ACTIONS = {
    Path.STACK: {Action.PASS},
    Path.REDIRECT: {Action.REDIRECT},
    Path.HAIRPIN: {Action.REDIRECT},
    Path.LOOPBACK: {Action.PASS, Action.REDIRECT},  # in place only if it is there already
}


def complaint(answer: AnswerView, happened: Happened) -> str | None:
    """Why what was foretold is not what happened, or None."""
    reason = happened.reason.name.lower() if happened.reason is not None else None
    if (answer.verdict, answer.reason) != (happened.verdict, reason):
        return f"{answer.verdict} {answer.reason}, but it was {happened.verdict} {reason}"
    if happened.verdict is not Verdict.TRANSLATE:
        return None
    assert happened.backend is not None
    assert happened.source is not None
    backend = format_address(mapped(happened.backend.address))
    source = format_address(mapped(happened.source.address))
    for candidate in answer.candidates:
        if (candidate.address, candidate.port) == (backend, happened.backend.port):
            if happened.action not in _ACTIONS[candidate.path]:
                return f"path {candidate.path}, but it was {happened.action}"
            if source not in candidate.seen_as:
                return f"seen as {candidate.seen_as}, but it was {source}"
            return None
    return f"{backend} is none of {[c.address for c in answer.candidates]}"
