# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds of a packet: BPF_PROG_TEST_RUN of the shipped programs, many at once.

What the driver costs is measured with a no-op behind it, in turns with the rest, and taken
off; what remains is net. Gross adds the no-op under a plain repeated test-run: the figure
such a run would show if the packet did not need to be written anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.packets.driver import FRAME_SIZE, Drive, Driver
from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import Dialogue, outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import HERE, REMOTE, V4, V6, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import TCP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind
from vipbee.datapath import syscall

PASS, REDIRECT = -1, 7
_PAYLOAD = bytes(FRAME_SIZE)


@dataclass(frozen=True, slots=True)
class Case:
    """A program, its packets, and the verdict every one of them must get."""

    program_fd: int
    ifindex: int
    drive: Drive
    verdict: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one packet; medians over the rounds."""

    net: float
    plain: float  # a no-op, plainly repeated

    @property
    def gross(self) -> float:
        return self.net + self.plain


def measure(
    driver: Driver, cases: Mapping[str, Case], *, rounds: int, repeat: int
) -> dict[str, Cost]:
    """All cases in turns. Flows that count up go on from round to round."""
    nets: dict[str, list[float]] = {name: [] for name in cases}
    plains: list[float] = []
    for turn in range(rounds + 1):
        for name, case in cases.items():
            drive = replace(case.drive, first=case.drive.first + turn * repeat)
            run = driver.run(case.program_fd, drive, ifindex=case.ifindex, repeat=repeat)
            if run.verdict != case.verdict:
                raise RuntimeError(f"{name}: verdict {run.verdict}, not {case.verdict}")
            noop = driver.run(driver.noop, drive, ifindex=case.ifindex, repeat=repeat)
            plain = syscall.prog_run_packet(
                driver.noop, drive.frame, ifindex=case.ifindex, repeat=repeat
            )
            if turn:  # the first warms up
                nets[name].append(run.nanoseconds - noop.nanoseconds)
                plains.append(plain.nanoseconds)
    plain_ns = statistics.median(plains)
    return {name: Cost(statistics.median(net), plain_ns) for name, net in nets.items()}


def established(bench: Bench) -> dict[str, Case]:
    """Packets of four connections over NodePorts, in both directions."""
    cases = {}
    for family in (V4, V6):
        for place, lab_case in (("remote", REMOTE), ("local", HERE)):
            talk = outside(bench, family, lab_case, FrontendKind.NODE_PORT)
            talk.establish()
            name = f"IPv{family.family} {place}"
            cases[name] = _case(bench, Hook.UPLINK_IN, "up0", _to_backend(talk))
            cases[f"{name}, reply"] = _case(bench, *talk.way_back, _to_client(talk))
    return cases


def not_ours(bench: Bench, family: Addresses = V4) -> dict[str, Case]:
    """Packets between others, and of the node itself, at every hook."""
    client, other = Endpoint(packed(family.client), 40_000), Endpoint(packed(family.elsewhere), 80)
    pod, node = Endpoint(packed(family.pods[0]), 40_000), Endpoint(packed(family.node), 22)
    packets = {
        "to others, uplink ingress": (Hook.UPLINK_IN, "up0", client, other),
        "to the node's SSH, uplink ingress": (Hook.UPLINK_IN, "up0", client, node),
        "of others, uplink egress": (Hook.UPLINK_OUT, "up0", pod, other),
        "from a pod to others, pod ingress": (Hook.POD_IN, "pod0", pod, other),
        "from others to a pod, pod egress": (Hook.POD_OUT, "pod0", other, pod),
    }
    return {
        name: _case(bench, hook, device, _frame(source, destination))
        for name, (hook, device, source, destination) in packets.items()
    }


def new_flows(bench: Bench) -> dict[str, Case]:
    """SYNs, each of another client and port, to the NodePorts of a remote and a local backend."""
    node, cases = packed(V4.node), {}
    for place, lab_case in (("remote", REMOTE), ("local", HERE)):
        client = Endpoint(packed(V4.client), 40_000)
        frame = _frame(client, Endpoint(node, lab_case.node_port), "S")
        drive = Drive(
            frame,
            flows=1 << 31,
            client=0x64400000,
            port=32_768,
            port_mask=0x7FFF,
            server=int.from_bytes(node),
        )
        verdict = REDIRECT if place == "remote" else PASS
        cases[place] = _case_of(bench, Hook.UPLINK_IN, "up0", drive, verdict)
    return cases


def _to_backend(talk: Dialogue) -> bytes:
    return _frame(talk.client, talk.frontend, "A", 1001, 5001)


def _to_client(talk: Dialogue) -> bytes:
    return _frame(talk.backend, talk.shown_client, "A", 5001, 1001)


def _frame(
    source: Endpoint,
    destination: Endpoint,
    flags: str = "A",
    sequence: int = 1000,
    acknowledgement: int = 0,
) -> bytes:
    segment = Segment(source, destination, TCP, flags, sequence, acknowledgement, _PAYLOAD)
    return segment.frame()


def _case(bench: Bench, hook: Hook, device: str, frame: bytes) -> Case:
    """Of a packet whose verdict is what it is now."""
    observed = bench.run(hook, device, frame)
    if observed.action is Action.DROP:
        raise RuntimeError(f"dropped: {observed.reasons}")
    verdict = REDIRECT if observed.action is Action.REDIRECT else PASS
    return _case_of(bench, hook, device, Drive(frame), verdict)


def _case_of(bench: Bench, hook: Hook, device: str, drive: Drive, verdict: int) -> Case:
    program = bench.datapath.program_fd(f"vipbee_{hook}")
    return Case(program, bench.ifindexes[device], drive, verdict)
