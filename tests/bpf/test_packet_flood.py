# SPDX-License-Identifier: Apache-2.0
"""D116-D118 with ten times as many new tuples as there is room for.

bench/packets measures the same at full size: 2,000 connections, 400,000 tuples.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.packets.driver import Driver
from bench.packets.flood import FLOODS, survive
from tests.support.packet_bench import Bench

SMALL = 4096
FLOWS = 200


@pytest.fixture(scope="module")
def small(
    as_root: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bench, Driver]]:
    sizes = {f"{table}_new_outside": SMALL for table in ("conntrack", "nat")}
    with (
        Bench.up(sizes=sizes, refusals_per_second=1 << 30) as bench,
        Driver.up(tmp_path_factory.mktemp("driver")) as driver,
    ):
        yield bench, driver


@pytest.mark.parametrize("kind", FLOODS)
def test_d116_d118_no_established_connection_is_lost(
    small: tuple[Bench, Driver], kind: str
) -> None:
    """D116 (SYN), D117 (answered SYNs), D118 (UDP): idle or active, TCP or UDP, here or remote."""
    bench, driver = small
    bench.reset()

    survival = survive(bench, driver, kind, flows=FLOWS, tuples=10 * SMALL)

    assert (survival.idle_lost, survival.active_lost) == (0, 0)
    assert bench.tables.size("conntrack_new_outside") > SMALL // 2  # the flood did come in
