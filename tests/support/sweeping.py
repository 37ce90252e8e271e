# SPDX-License-Identifier: Apache-2.0
"""A sweep as the agent runs it, that is told of changed addresses."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.support.eventually import eventually
from vipbee.abi import MapName
from vipbee.core.lifetimes import Lifetimes
from vipbee.datapath.kernel import KernelTables
from vipbee.sweep import Sweep, Sweeps
from vipbee.sweep_tables import TableSweep


def swept_soon(sweeps: Sweeps, tables: KernelTables, name: MapName) -> float:
    """Seconds until the table is empty."""
    return asyncio.run(_swept_soon(sweeps, tables, name))


async def _swept_soon(sweeps: Sweeps, tables: KernelTables, name: MapName) -> float:
    sweep = Sweep(sweeps, tables, TableSweep(tables, Lifetimes()))
    task = asyncio.create_task(sweep.sweep_regularly(lambda: True))
    sweep.soon()
    try:
        empty = partial(eventually, lambda: not len(tables.read_hash(name)[0]), within_s=20)
        return await asyncio.to_thread(empty)
    finally:
        task.cancel()
