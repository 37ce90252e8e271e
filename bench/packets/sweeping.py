# SPDX-License-Identifier: Apache-2.0
"""The agent's sweep over a full table of established connections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tests.support.hooked import Hooked
from vipbee.abi import ConntrackSeen, MapName
from vipbee.core.lifetimes import Lifetimes, reply_tuples
from vipbee.core.plan import Op
from vipbee.datapath import pins
from vipbee.datapath.btf import load_layouts
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.loader import load
from vipbee.sweep import Sweep, Swept

_NOW = 100_000
_LIFETIMES = Lifetimes(established_s=7440, transitory_s=240, reset_s=10, udp_s=120)
_TCP = 6


@dataclass(frozen=True, slots=True)
class SweepTime:
    entries: int
    removed: int
    took_s: float
    cpu_s: float
    longest_step_ms: float


def measure_sweep(entries: int) -> list[SweepTime]:
    """Sweeps of `entries` connections (and as many reverse halves): 1 % over, then all."""
    with _tables(entries) as tables:
        _fill(tables, entries)
        return [_sweep(tables, now) for now in (_NOW, _NOW + 10_000)]


@contextlib.contextmanager
def _tables(entries: int) -> Iterator[KernelTables]:
    sizes = {name: entries for name in MapName if name.endswith(("_outside", "_pod"))}
    sizes = {name: size for name, size in sizes.items() if "_new_" not in name}
    with Hooked.up(sizes=sizes, loaded=False) as hooked:
        pins.prepare_root(hooked.bpf_root)
        with pins.exclusive(hooked.bpf_root):
            loaded = load(replace(hooked.request(), packet_lb=True))
        if loaded.packet_problem:
            raise RuntimeError(loaded.packet_problem)
        with KernelTables(loaded.directory, load_layouts()) as tables:
            yield tables


def _fill(tables: KernelTables, entries: int) -> None:
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
    values["last_seen"] = _NOW
    values["last_seen"][::100] = _NOW - 10_000
    halves = np.zeros(entries, layouts["nat"])
    halves["original"], halves["last_seen"] = keys, values["last_seen"]
    tables.apply(Op(MapName.CONNTRACK_OUTSIDE, keys, values))
    tables.apply(Op(MapName.NAT_OUTSIDE, reply_tuples(keys, values), halves))


def _sweep(tables: KernelTables, now: int) -> SweepTime:
    swept, longest = Swept(), 0.0
    cpu = time.process_time()
    started = before = time.perf_counter()
    for _ in Sweep(tables, _LIFETIMES, clock=lambda: now).steps(swept):
        after = time.perf_counter()
        longest, before = max(longest, after - before), after
    took_s = time.perf_counter() - started
    return SweepTime(
        swept.seen, swept.connections, took_s, time.process_time() - cpu, longest * 1e3
    )
