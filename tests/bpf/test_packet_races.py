# SPDX-License-Identifier: Apache-2.0
"""D91, D94, D102, D110: two CPUs at the same connection at the same moment.

Two threads, each on a CPU of its own, run the same packets in step; the interpreter lets go
of its lock in every test run. What they race for is in the tables afterwards.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.packet_bench import Bench, TestRunner
from tests.support.packet_model.dialogue import outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import ANY, HERE, REMOTE, TWIN, V4, Addresses, dialled
from tests.support.packet_model.model import Hook
from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import TCP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind
from vipbee.datapath import syscall

FLOWS = 800
IN_STEP = 25
"""Flows between two waits for the other thread: they drift apart by less."""

needs_two_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one CPU: nothing to race with"
)


def race(bench: Bench, hook: Hook, device: str, *sides: Sequence[bytes]) -> list[list[bytes]]:
    """What came out, for each side."""
    program, ifindex = bench.datapath.program_fd(f"vipbee_{hook}"), bench.ifindexes[device]
    barrier = threading.Barrier(len(sides))
    came_out: list[list[bytes]] = [[] for _ in sides]

    def side(number: int, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        runner = TestRunner()
        for index, frame in enumerate(sides[number]):
            if index % IN_STEP == 0:
                barrier.wait(10)
            came_out[number].append(runner.run(program, frame, ifindex).frame)

    cpus = sorted(os.sched_getaffinity(0))
    threads = [
        threading.Thread(target=side, args=(number, cpus[number])) for number in range(len(sides))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(frames) for frames in came_out] == [len(frames) for frames in sides]
    return came_out


def ends(frame: bytes) -> tuple[Endpoint, Endpoint]:
    packet = parse(frame)
    assert isinstance(packet, Packet)
    return packet.client, packet.dialled


def firsts(family: Addresses, case: object, protocol: int) -> list[bytes]:
    client = Endpoint(packed(family.client), 0)
    to = dialled(family, case, FrontendKind.LOAD_BALANCER, protocol)  # type: ignore[arg-type]
    ports = range(33000, 33000 + FLOWS)
    return [Segment(Endpoint(client.address, port), to, protocol).frame() for port in ports]


@needs_two_cpus
def test_d91_d94_d110_one_connection_from_two_cpus_gets_one_backend(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D91, D94, D110: four backends to disagree about; the loser follows, and gives its port
    back."""
    frames = firsts(family, ANY, protocol)

    one, two = race(bench, Hook.UPLINK_IN, "up0", frames, frames)

    assert [ends(frame) for frame in one] == [ends(frame) for frame in two]
    assert len(bench.tables.connections(Zone.OUTSIDE)) == FLOWS
    assert len(bench.tables.reply_tuples(Zone.OUTSIDE)) == FLOWS


@needs_two_cpus
def test_d102_two_vips_from_two_cpus_share_no_port(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D86, D102, R124: the insert of the reply tuple decides, whoever looked first."""
    sides = [firsts(family, case, protocol) for case in (REMOTE, TWIN)]

    one, two = race(bench, Hook.UPLINK_IN, "up0", *sides)

    seen = [ends(frame) for frame in (*one, *two)]
    assert len(set(seen)) == 2 * FLOWS
    assert len(bench.tables.reply_tuples(Zone.OUTSIDE)) == 2 * FLOWS


@needs_two_cpus
def test_d91_a_connection_confirmed_on_two_cpus_moves_once(bench: Bench) -> None:
    """D68, D91: promoted and counted once, both halves."""
    acks = []
    opened = read_opened(bench)
    for port in range(33000, 33000 + FLOWS):
        talk = outside(bench, V4, HERE, port=port)
        bench.run(Hook.UPLINK_IN, "up0", Segment(talk.client, talk.frontend).frame())
        answer = Segment(Endpoint(packed(V4.pods[1]), 8080), talk.client, TCP, "SA", 5000, 1001)
        bench.run(Hook.UPLINK_OUT, "up0", answer.frame())
        acks.append(Segment(talk.client, talk.frontend, TCP, "A", 1001, 5001).frame())

    race(bench, Hook.UPLINK_IN, "up0", acks, acks)

    sizes = bench.tables.sizes()
    assert sizes["conntrack_outside"] == sizes["nat_outside"] == FLOWS
    assert sizes["conntrack_new_outside"] == sizes["nat_new_outside"] == 0
    assert read_opened(bench) - opened == FLOWS


def read_opened(bench: Bench) -> int:
    """Connections of this Service port so far."""
    to = dialled(V4, HERE, FrontendKind.LOAD_BALANCER, TCP)
    service_id = bench.model.world.frontends[to.address, to.port, TCP].service_id
    counters = np.zeros(1, bench.tables.layouts["service_counters"])
    syscall.map_lookup(
        bench.tables.fd_of("service_counters"), np.array([service_id], np.uint32), counters
    )
    return int(counters["opened"][0])
