# SPDX-License-Identifier: Apache-2.0
"""What may come out of a hook, how free choices are followed, how to compare.

A rule that says "drop or pass" gives two `Alternative`s. The first is preferred. Each
changes the model's state only when it is the one that happened.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tests.support.packet_model.wire import ETH_LENGTH, Packet, parse
from tests.support.packet_model.world import Backend
from vipbee.abi import Reason


class Action(StrEnum):
    PASS = "pass"  # to the stack, rewritten or not
    DROP = "drop"
    REDIRECT = "redirect"  # sent by us: forwarded, or an answer


class DisagreementError(AssertionError):
    """What was observed is not what the rules allow."""


ReplyCheck = Callable[[bytes], "str | None"]
"""Says what is wrong with an answer we made up ourselves (RST, ICMP), or None."""


@dataclass(frozen=True, slots=True)
class Outcome:
    action: Action
    rule: str
    frame: bytes | None = None  # None for PASS: unchanged
    reasons: tuple[Reason, ...] = ()  # each moves by exactly one
    may_count: frozenset[Reason] = frozenset()  # these may move by one too
    reply: ReplyCheck | None = None
    ifindex: int | None = None  # where a REDIRECT goes


@dataclass(frozen=True, slots=True)
class Observed:
    action: Action
    frame: bytes
    reasons: dict[Reason, int] = field(default_factory=dict)
    ifindex: int | None = None

    @property
    def summary(self) -> str:
        return f"{self.action} ({_names(self.reasons)}) {self.frame.hex()}"


class Chooser(Protocol):
    """Makes the choices the rules leave open, out of what they allow."""

    def backend(self, allowed: Sequence[Backend]) -> Backend: ...

    def source_port(self, keep: int | None, ports: range, is_free: Callable[[int], bool]) -> int:
        """`keep`: the port that must be kept (D100), None if it cannot be."""


class RandomChooser:
    """For runs of the model alone."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def backend(self, allowed: Sequence[Backend]) -> Backend:
        return self.random.choice(allowed)

    def source_port(self, keep: int | None, ports: range, is_free: Callable[[int], bool]) -> int:
        if keep is not None:
            return keep
        return next(p for p in self.random.sample(ports, len(ports)) if is_free(p))


class FollowChooser:
    """Takes the choice that was made and objects if the rules did not allow it."""

    def __init__(self, observed: Observed, *, has_ethernet: bool) -> None:
        self.observed, self.has_ethernet = observed, has_ethernet

    @property
    def packet(self) -> Packet:
        packet = parse_any(self.observed.frame, has_ethernet=self.has_ethernet)
        if packet is None:
            raise DisagreementError("what came out is not an IP packet any more")
        return packet

    def backend(self, allowed: Sequence[Backend]) -> Backend:
        for backend in allowed:
            if backend.endpoint == self.packet.dialled:
                return backend
        raise DisagreementError(
            f"sent to {show(self.packet.destination)}:{self.packet.destination_port}, allowed are "
            + ", ".join(f"{show(b.address)}:{b.port}" for b in allowed)
        )

    def source_port(self, keep: int | None, ports: range, is_free: Callable[[int], bool]) -> int:
        port = self.packet.source_port
        if keep is not None and port != keep:
            raise DisagreementError(
                f"source port {keep} is free and must be kept, got {port} (D100)"
            )
        if keep is None and (port not in ports or not is_free(port)):
            raise DisagreementError(f"source port {port} is taken or outside {ports} (D101, D102)")
        return port


def parse_any(frame: bytes, *, has_ethernet: bool) -> Packet | None:
    protocol = 0
    if not has_ethernet and frame:
        protocol = 0x0800 if frame[0] >> 4 == 4 else 0x86DD
    packet = parse(frame, has_ethernet=has_ethernet, protocol=protocol)
    return packet if isinstance(packet, Packet) else None


Run = Callable[[Chooser], tuple[Outcome, Callable[[], None]]]
"""Work out an outcome; returns it and what it changes, which is not done yet."""


@dataclass(frozen=True, slots=True)
class Alternative:
    action: Action
    run: Run

    @classmethod
    def of(cls, outcome: Outcome, commit: Callable[[], None] | None = None) -> Alternative:
        return cls(outcome.action, lambda _chooser: (outcome, commit or (lambda: None)))


def complaint(expected: Outcome, observed: Observed, before: bytes, *, l3: int) -> str | None:
    """Why `observed` is not `expected`, or None. `before`: the frame as it came."""
    if observed.action != expected.action:
        return f"{observed.action} instead of {expected.action}"
    if wrong := _wrong_reasons(expected, observed):
        return wrong
    if expected.action is Action.DROP:
        return None
    if expected.ifindex is not None and observed.ifindex not in (None, expected.ifindex):
        return f"redirected to device {observed.ifindex} instead of {expected.ifindex}"
    if expected.reply is not None:
        return expected.reply(observed.frame)
    wanted = before if expected.frame is None else expected.frame
    # link addresses of what we send are the neighbour table's business
    start = l3 if expected.action is Action.REDIRECT else 0
    if observed.frame[start:] != wanted[start:]:
        return f"bytes differ:\n  wanted {wanted.hex()}\n  got    {observed.frame.hex()}"
    return None


def _wrong_reasons(expected: Outcome, observed: Observed) -> str | None:
    moved = {reason: count for reason, count in observed.reasons.items() if count}
    for reason in expected.reasons:
        if moved.pop(reason, 0) != 1:
            return f"reason {reason.name} did not move by one, moved: {_names(observed.reasons)}"
    for reason, count in moved.items():
        if reason not in expected.may_count or count != 1:
            return f"reason {reason.name} moved by {count}"
    return None


def _names(reasons: dict[Reason, int]) -> str:
    return ", ".join(f"{r.name}+{n}" for r, n in reasons.items() if n) or "none"


def show(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def l3_offset(*, has_ethernet: bool) -> int:
    return ETH_LENGTH if has_ethernet else 0
