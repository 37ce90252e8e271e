# SPDX-License-Identifier: Apache-2.0
"""Do established connections live through a flood of new ones? D116-D118.

One flow in two is idle, the others talk in both directions now and then while the flood
goes on; half have a backend here, half a remote one. Lost is who does not get, in either
direction, the very bytes that came out before the flood.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.packets.driver import FRAME_SIZE, Drive, Driver
from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import Dialogue, outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import HERE, REMOTE, V4, Case
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Observed
from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind

FLOODS = ("SYN", "SYN, answered", "UDP")
_CLIENTS = 0x64400000  # 100.64.0.0
_PORT = 2048
_PORTS = 4096  # source ports of one client of the flood


@dataclass(frozen=True, slots=True)
class Survival:
    established: int
    idle_lost: int
    active_lost: int
    tuples: int  # of the flood


@dataclass(frozen=True, slots=True)
class _Flow:
    """Packets of an established connection, and what became of them before the flood."""

    says: tuple[Hook, str, bytes]
    answers: tuple[Hook, str, bytes]
    said: Observed
    answered: Observed


def survive(
    bench: Bench, driver: Driver, kind: str, *, flows: int, tuples: int, chunk: int = 2000
) -> Survival:
    """`flows` connections through a flood of `tuples`, `kind` of FLOODS; chunk by chunk."""
    made = [_establish(bench, number) for number in range(flows)]
    idle, active = made[: flows // 2], made[flows // 2 :]
    active_lost: set[int] = set()
    turn = max(1, len(active) // 50)
    for step, first in enumerate(range(0, tuples, chunk)):
        _flood(bench, driver, kind, first, min(chunk, tuples - first))
        now = range(step * turn, (step + 1) * turn)
        talking = {number % len(active) for number in now}
        active_lost |= {number for number in talking if not _lives(bench, active[number])}
    active_lost |= {number for number, flow in enumerate(active) if not _lives(bench, flow)}
    idle_lost = sum(not _lives(bench, flow) for flow in idle)
    return Survival(flows, idle_lost, len(active_lost), tuples)


def _establish(bench: Bench, number: int) -> _Flow:
    case = (HERE, REMOTE)[number % 2]
    protocol = UDP if number % 4 == 3 else TCP
    talk = outside(
        bench, V4, case, FrontendKind.NODE_PORT, protocol=protocol, port=40_000 + number // 2
    )
    talk.establish()
    hook, device = talk.way_back
    says = (Hook.UPLINK_IN, "up0", _frame(talk, talk.client, talk.frontend, 1001, 5001))
    answers = (hook, device, _frame(talk, talk.backend, talk.shown_client, 5001, 1001))
    return _Flow(says, answers, bench.run(*says), bench.run(*answers))


def _frame(
    talk: Dialogue, source: Endpoint, destination: Endpoint, sequence: int, acknowledgement: int
) -> bytes:
    segment = Segment(
        *(source, destination, talk.protocol, "A", sequence),
        acknowledgement=acknowledgement,
    )
    return segment.frame()


def _lives(bench: Bench, flow: _Flow) -> bool:
    return _same(bench.run(*flow.says), flow.said) and _same(
        bench.run(*flow.answers), flow.answered
    )


def _same(now: Observed, before: Observed) -> bool:
    """Not the reasons: those that the flood counted come with the packet after it."""
    return (now.action, now.frame) == (before.action, before.frame)


def _flood(bench: Bench, driver: Driver, kind: str, first: int, count: int) -> None:
    case: Case = HERE if kind == "SYN, answered" else REMOTE
    protocol = UDP if kind == "UDP" else TCP
    bait = outside(bench, V4, case, FrontendKind.NODE_PORT, protocol=protocol)
    frame = Segment(bait.client, bait.frontend, protocol, payload=bytes(FRAME_SIZE)).frame()
    _drive(bench, driver, "vipbee_uplink_in", frame, bait.frontend, first, count, False)
    if kind == "SYN, answered":
        backend = Endpoint(packed(V4.pods[1]), 8080)
        segment = Segment(backend, bait.client, TCP, "SA", payload=bytes(FRAME_SIZE))
        frame = segment.frame()
        _drive(bench, driver, "vipbee_uplink_out", frame, backend, first, count, True)


def _drive(
    bench: Bench,
    driver: Driver,
    program: str,
    frame: bytes,
    server: Endpoint,
    first: int,
    count: int,
    is_reply: bool,
) -> None:
    drive = Drive(
        frame,
        flows=1 << 31,
        first=first,
        client=_CLIENTS,
        client_shift=12,
        port=_PORT,
        port_mask=_PORTS - 1,
        server=int.from_bytes(server.address),
        is_reply=is_reply,
    )
    driver.run(
        bench.datapath.program_fd(program), drive, ifindex=bench.ifindexes["up0"], repeat=count
    )
