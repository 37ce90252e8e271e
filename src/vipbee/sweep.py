# SPDX-License-Identifier: Apache-2.0
"""When connections that are over are removed, and by whom.

By lifetime only, with the datapath's own clock (F61, F62): an entry past it counts as absent
there already, so this frees room and decides nothing. Besides: connections whose packets
carry an address the node no longer has (D113). The tables of unfinished connections are
LRU and need no sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from vipbee.abi import SweepOutcome
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.programs import SWEEP_PROGRAMS
from vipbee.datapath.sweep_iterators import read_sweep
from vipbee.errors import KernelError
from vipbee.logs import get_log
from vipbee.sweep_tables import Swept, TableSweep

log = get_log()

INTERVAL_S = 30.0
PRESSED_INTERVAL_S = 5.0
"""Between two sweeps while a table is more than PRESSED full."""
PRESSED = 0.75
SETTLE_S = 0.5
"""After the addresses changed: until then `devices` may lend the old one to new connections."""


class Sweeps(Protocol):
    """Who may open the iterators."""

    def are_available(self) -> bool:
        """Whether the kernel took the iterators."""

    def open(self, program: str, *, unfinished: bool = False) -> int:
        """An fd whose read() sweeps; OSError if it cannot be had."""


class Sweep:
    """Sweeps both zones: by iterators in the kernel, or with `fallback` where there are none."""

    def __init__(self, sweeps: Sweeps, tables: KernelTables, fallback: TableSweep) -> None:
        self._sweeps = sweeps
        self._tables = tables
        self._fallback = fallback
        self._wanted = asyncio.Event()

    def soon(self) -> None:
        """Do not wait for the interval: the addresses of the node changed."""
        self._wanted.set()

    async def sweep_regularly(self, is_ready: Callable[[], bool]) -> None:
        """Sweep for ever, but not before the state is known (`is_ready`)."""
        interval_s = INTERVAL_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):  # wait_for() can swallow a cancellation
                    await self._wanted.wait()
            if addresses_changed := self._wanted.is_set():
                await asyncio.sleep(SETTLE_S)
            self._wanted.clear()
            if not is_ready():
                continue
            started = time.monotonic()
            swept = await self._sweep(unfinished=addresses_changed)
            interval_s = PRESSED_INTERVAL_S if swept.pressure > PRESSED else INTERVAL_S
            if swept.connections or swept.reverse_halves:
                log.debug(
                    "swept",
                    connections=swept.connections,
                    of=swept.seen,
                    took_ms=round((time.monotonic() - started) * 1e3, 1),
                )

    async def _sweep(self, *, unfinished: bool) -> Swept:
        if self._sweeps.are_available():
            try:
                return await asyncio.to_thread(
                    sweep_in_kernel, self._sweeps, self._tables, unfinished=unfinished
                )
            except OSError as error:  # a pin that the next audit restores, or no memory
                log.warning("the kernel does not sweep its tables", reason=str(error))
        swept = Swept()
        try:
            for _ in self._fallback.steps(swept, unfinished=unfinished):
                await asyncio.sleep(0)  # whoever waits goes first
        except KernelError as error:  # frozen by somebody; the datapath does not need the sweep
            log.warning("connections that are over stay in their tables", reason=str(error))
        return swept


def sweep_in_kernel(sweeps: Sweeps, tables: KernelTables, *, unfinished: bool = False) -> Swept:
    """One sweep of both zones; OSError if a pin is missing. Blocks, in short steps.

    `unfinished`: look at connections that are not established as well.
    """
    swept = Swept()
    for program, name in SWEEP_PROGRAMS.items():
        seen = connections = 0
        if unfinished and name.startswith("conntrack"):
            for _ in read_sweep(sweeps.open(program, unfinished=True)):
                pass
        for outcomes in read_sweep(sweeps.open(program)):
            counts = np.bincount(outcomes & SweepOutcome.CONNECTION, minlength=2)
            seen += len(outcomes)
            connections += int(counts[SweepOutcome.CONNECTION])
            swept.reverse_halves += int(np.count_nonzero(outcomes & SweepOutcome.REVERSE_HALF))
        if name.startswith("conntrack"):
            swept.seen += seen
            swept.connections += connections
            left = (seen - connections) / tables.max_entries(name)
            swept.pressure = max(swept.pressure, left)
    return swept
