# SPDX-License-Identifier: Apache-2.0
"""The sweep over a full table of established connections, in the kernel and in user space."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tests.support.hooked import Hooked
from vipbee.abi import ConntrackSeen, MapName, SweepOutcome
from vipbee.core.connection_age import reply_tuples
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.plan import Op
from vipbee.datapath import pins
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.loader import load
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.programs import SWEEP_PROGRAMS
from vipbee.datapath.sweep_iterators import read_sweep
from vipbee.datapath.sweeps import Sweeps
from vipbee.sweep_tables import Swept, TableSweep

_OLD_S = 10_000
_LIFETIMES = Lifetimes(established_s=7440, transitory_s=240, reset_s=10, udp_s=120)
_TCP = 6


@dataclass(frozen=True, slots=True)
class SweepTime:
    entries: int
    removed: int
    took_s: float
    cpu_s: float
    longest_step_ms: float
    """CPU time of the longest step: on a kernel without preemption, what a packet waits."""


def measure_sweeps(entries: int) -> dict[str, tuple[SweepTime, SweepTime]]:
    """Sweeps of `entries` connections (and as many reverse halves): 1 % over, then all.

    By who sweeps; "in the kernel" is not there where the kernel allows no iterators.
    """
    with _tables(entries) as (directory, tables):
        found = {}
        able = ["in the kernel"] if Sweeps(directory).are_available() else []
        for who in (*able, "in user space"):
            times = []
            for over in (100, 1):
                _fill(tables, entries, over)
                swept = Swept()
                steps = (
                    _kernel_steps(directory, swept)
                    if who == "in the kernel"
                    else TableSweep(tables, _LIFETIMES).steps(swept)
                )
                times.append(_measure(steps, swept))
            found[who] = (times[0], times[1])
        return found


@contextlib.contextmanager
def _tables(entries: int) -> Iterator[tuple[PinDirectory, KernelTables]]:
    sizes = {name: entries for name in MapName if name.endswith(("_outside", "_pod"))}
    sizes = {name: size for name, size in sizes.items() if "_new_" not in name}
    with Hooked.up(sizes=sizes, loaded=False) as hooked:
        pins.prepare_root(hooked.bpf_root)
        with pins.exclusive(hooked.bpf_root):
            loaded = load(replace(hooked.request(), packet_lb=True))
        if loaded.packet_problem:
            raise RuntimeError(loaded.packet_problem)
        with KernelTables(loaded.directory, load_layouts()) as tables:
            yield loaded.directory, tables


def _fill(tables: KernelTables, entries: int, over: int) -> None:
    """Every `over`-th connection is past its lifetime."""
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    layouts, number = load_layouts(), np.arange(entries, dtype=np.uint32)
    keys = np.zeros(entries, layouts["flow_tuple"])
    keys["source"]["word"][:, 2:] = [0xFFFF, 0x64400000]
    keys["source"]["word"][:, 3] += number // 50_000
    keys["source_port"] = 1024 + number % 50_000
    keys["destination"]["word"] = [0, 0, 0xFFFF, 0xCB00710A]
    keys["destination_port"], keys["protocol"] = 80, _TCP
    values = np.zeros(entries, layouts["conntrack"])
    values["backend"]["word"] = [0, 0, 0xFFFF, 0x0AF40102]
    values["backend_port"] = 8080
    values["source"], values["source_port"] = keys["source"], keys["source_port"]
    values["client_seen"] = values["backend_seen"] = int(ConntrackSeen.PACKET | ConntrackSeen.SYN)
    values["last_seen"] = now
    values["last_seen"][::over] = (now - _OLD_S) & 0xFFFFFFFF
    halves = np.zeros(entries, layouts["nat"])
    halves["original"], halves["last_seen"] = keys, values["last_seen"]
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys, values))
    tables.apply(Op(MapName.NAT_OUTSIDE, reply_tuples(keys, values), halves))


def _kernel_steps(directory: PinDirectory, swept: Swept) -> Iterator[None]:
    for program in SWEEP_PROGRAMS:
        for outcomes in read_sweep(Sweeps(directory).open(program)):
            if "sweep" in program:
                swept.seen += len(outcomes)
            swept.connections += int(np.count_nonzero(outcomes & SweepOutcome.CONNECTION))
            yield


def _measure(steps: Iterator[None], swept: Swept) -> SweepTime:
    longest = 0.0
    started, cpu = time.perf_counter(), time.thread_time()
    before = cpu
    for _ in steps:
        after = time.thread_time()
        longest, before = max(longest, after - before), after
    took_s = time.perf_counter() - started
    cpu_s = time.thread_time() - cpu
    return SweepTime(swept.seen, swept.connections, took_s, cpu_s, longest * 1e3)
