# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of a control plane: a process with all its descendants."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.02
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(slots=True)
class Usage:
    """Of the whole tree, so far."""

    cpu_s: float = 0.0
    peak_mib: float = 0.0


class Watched:
    """Samples the tree below `pid` every 20 ms until stopped.

    CPU time counts children that have ended as soon as their parent waited for them.
    Memory is the resident set of all; pages that processes share count for each.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._usage = Usage()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> Usage:
        self._stopped.set()
        self._thread.join()
        self._sample()
        return self._usage

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        cpu_s, mib = tree_usage(self._pid)
        self._usage.cpu_s = max(self._usage.cpu_s, cpu_s)
        self._usage.peak_mib = max(self._usage.peak_mib, mib)


def tree_usage(pid: int) -> tuple[float, float]:
    """(CPU seconds, resident MiB) of a process and its descendants now; zeros if gone."""
    cpu_s, mib = _own_usage(pid)
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        children = {
            int(child)
            for task in tasks
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        }
    except OSError:
        return cpu_s, mib
    for child in children:
        child_cpu_s, child_mib = tree_usage(child)
        cpu_s, mib = cpu_s + child_cpu_s, mib + child_mib
    return cpu_s, mib


def _own_usage(pid: int) -> tuple[float, float]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks = sum(int(fields[n]) for n in (11, 12, 13, 14))  # utime stime cutime cstime
    return ticks / _TICK, int(fields[21]) * _PAGE_MIB


def kernel_mib() -> float:
    """What the kernel has in slabs, vmalloc and per-CPU memory: tables of any kind.

    Differences are good to about a MiB, and only while nothing else happens.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    wanted = ("Slab", "VmallocUsed", "Percpu")
    return sum(int(fields[name].split()[0]) for name in wanted) / 1024


def wait_for_quiet_kernel() -> float:
    """`kernel_mib` once freeing in the background has ended, at most 3 s."""
    before = kernel_mib()
    for _ in range(10):
        time.sleep(0.3)
        now = kernel_mib()
        if abs(now - before) < 0.5:
            return now
        before = now
    return before
