# SPDX-License-Identifier: Apache-2.0
"""What the hooks cost: bpf_stats_enabled, with programs that do nothing beside them.

The kernel reads its clock before and after each program, which costs about as much as a
small program; a no-op on the same hook in the same run says how much.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.sockets.build import Built
from tests.support.hooked import Hooked
from vipbee.datapath import syscall
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.syscall import ATTACH_TYPES

_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
HOOKS = ("connect4", "sock_release", "sendmsg4", "recvmsg4")


class Cost(NamedTuple):
    """Nanoseconds a run, medians over the rounds."""

    gross: float
    noop: float

    @property
    def net(self) -> float:
        return self.gross - self.noop


@contextlib.contextmanager
def statistics_enabled() -> Iterator[None]:
    before = _STATS.read_text()
    _STATS.write_text("1")
    try:
        yield
    finally:
        _STATS.write_text(before)


class HookStatistics:
    """Run times of the shipped programs and of the no-ops, by hook. Close it."""

    def __init__(self, hooked: Hooked, noop_object: Path) -> None:
        self._stack = contextlib.ExitStack()
        noop = self._stack.enter_context(ObjectFile.open(noop_object))
        noop.load()
        cgroup = os.open(hooked.cgroup, os.O_RDONLY | os.O_DIRECTORY)
        self._stack.callback(os.close, cgroup)
        self._fds: dict[str, tuple[int, int]] = {}
        for hook in HOOKS:
            shipped = hooked.directory.get("programs", f"vipbee_{hook}")
            assert shipped is not None
            self._stack.callback(os.close, shipped)
            program = noop.program_fd(f"noop_{hook}")
            link = syscall.link_create_cgroup(program, cgroup, ATTACH_TYPES[f"vipbee_{hook}"])
            self._stack.callback(os.close, link)
            self._fds[hook] = (shipped, program)

    def close(self) -> None:
        self._stack.close()

    def read(self) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
        """(ns, runs) so far of the shipped program and of the no-op."""
        return {
            hook: (run_time(shipped), run_time(noop)) for hook, (shipped, noop) in self._fds.items()
        }


def run_time(program_fd: int) -> tuple[int, int]:
    """(ns, runs) of a program so far, counted while statistics are enabled."""
    lines = Path(f"/proc/self/fdinfo/{program_fd}").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    return int(fields["run_time_ns"]), int(fields["run_cnt"])


def measure(
    hooked: Hooked, built: Built, traffic: dict[str, tuple[str, str, int]], *, rounds: int
) -> dict[str, dict[str, Cost]]:
    """Cost of each hook by kind of traffic, `{name: (tcp|udp, address, port)}`.

    The kinds take turns, so that what disturbs the machine disturbs all of them.
    """
    seen: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in traffic}
    reader = HookStatistics(hooked, built.noop)
    try:
        with statistics_enabled():
            for _ in range(rounds):
                for name, (protocol, address, port) in traffic.items():
                    before = reader.read()
                    command = [str(built.client), protocol, "0", "2000", address, str(port)]
                    hooked.run(partial(subprocess.check_output, command))
                    for hook, programs in reader.read().items():
                        (ns, runs), (noop_ns, noop_runs) = (
                            (after[0] - start[0], after[1] - start[1])
                            for after, start in zip(programs, before[hook], strict=True)
                        )
                        if runs >= 2000:
                            pair = (ns / runs, noop_ns / noop_runs)
                            seen[name].setdefault(hook, []).append(pair)
    finally:
        reader.close()
    return {
        name: {
            hook: Cost(*(statistics.median(column) for column in zip(*pairs, strict=True)))
            for hook, pairs in hooks.items()
        }
        for name, hooks in seen.items()
    }
