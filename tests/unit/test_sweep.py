# SPDX-License-Identifier: Apache-2.0
"""When connections that are over are removed: F62, F63, D113. What is removed: tests/bpf."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import cast

from tests.support.virtual_time import run_in_virtual_time
from vipbee.datapath.kernel import KernelTables
from vipbee.sweep import INTERVAL_S, PRESSED, PRESSED_INTERVAL_S, SETTLE_S, Sweep
from vipbee.sweep_tables import Swept, TableSweep

HOUR_S = 3600.0


class NoIterators:
    def are_available(self) -> bool:
        return False

    def open(self, program: str, *, unfinished: bool = False) -> int:
        raise AssertionError(program)


class Times:
    """In place of a TableSweep: when it was asked to sweep, and a table that is so full."""

    def __init__(self, pressure: float = 0.0) -> None:
        self.pressure = pressure
        self.at: list[float] = []

    def steps(self, swept: Swept, *, unfinished: bool = False) -> Iterator[None]:
        self.at.append(asyncio.get_running_loop().time())
        swept.pressure = self.pressure
        yield


def swept_at(
    times: Times,
    *,
    for_s: float,
    is_ready: Callable[[], bool] = lambda: True,
    addresses_change_at: float | None = None,
) -> list[float]:
    """Seconds after the start of the agent at which it sweeps."""

    async def scenario() -> None:
        sweep = Sweep(NoIterators(), cast(KernelTables, None), cast(TableSweep, times))
        if addresses_change_at is not None:
            asyncio.get_running_loop().call_later(addresses_change_at, sweep.soon)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await sweep.sweep_regularly(is_ready)

    run_in_virtual_time(scenario())
    return [round(at, 3) for at in times.at]


def test_nothing_is_swept_at_start_nor_before_the_services_are_known() -> None:
    """F62: not even what an earlier process left; it may be that the API server is away."""
    known_at = 10 * INTERVAL_S + 1
    times = Times()

    def is_ready() -> bool:
        return asyncio.get_running_loop().time() >= known_at

    assert swept_at(times, for_s=12 * INTERVAL_S, is_ready=is_ready) == [11 * INTERVAL_S]


def test_sweeps_follow_each_other_in_half_a_minute() -> None:
    """F63: fixed, so that no size or option makes it hours."""
    found = swept_at(Times(), for_s=HOUR_S)

    assert found == [INTERVAL_S * number for number in range(1, int(HOUR_S / INTERVAL_S))]
    assert INTERVAL_S == 30


def test_a_table_that_fills_is_swept_more_often_until_there_is_room() -> None:
    """F63"""
    times = Times(pressure=PRESSED + 0.01)

    first = swept_at(times, for_s=INTERVAL_S + 2.5 * PRESSED_INTERVAL_S)

    assert first == [INTERVAL_S + PRESSED_INTERVAL_S * number for number in range(3)]


def test_changed_addresses_are_not_left_for_the_next_sweep() -> None:
    """D113: and the interval begins anew."""
    found = swept_at(Times(), for_s=2 * INTERVAL_S, addresses_change_at=7.0)

    assert found == [7.0 + SETTLE_S, 7.0 + SETTLE_S + INTERVAL_S]
