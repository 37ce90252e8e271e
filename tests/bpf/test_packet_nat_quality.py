# SPDX-License-Identifier: Apache-2.0
"""D104: how much of a port range can be used. bench/packets measures the same at full size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.packets.driver import Driver
from bench.packets.quality import Quality, measure_quality, range_of
from tests.support.packet_bench import Bench

PORTS = 3_200


@pytest.fixture(scope="module")
def quality(as_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quality]:
    """New flows to one backend, all from one source port, until the first is refused."""
    directory: Path = tmp_path_factory.mktemp("driver")
    with Bench.up(**range_of(PORTS)) as bench, Driver.up(directory) as driver:
        yield measure_quality(bench, driver, PORTS)


def test_d104_no_flow_fails_below_three_quarters_of_the_range(quality: Quality) -> None:
    """D104"""
    assert (quality.failures_until_75, quality.failures_at_75) == (0, 0)


def test_d104_at_most_one_in_a_hundred_fails_at_nine_tenths(quality: Quality) -> None:
    """D104"""
    assert quality.failures_until_90 <= quality.ports * 0.9 * 0.01
    assert quality.failures_at_90 <= max(1, quality.tried // 100)


def test_d103_d104_seven_eighths_are_given_out_before_the_first_refusal(quality: Quality) -> None:
    """D103, D104: 28,000 of 32,000; never more than there are."""
    assert quality.ports * 7 // 8 <= quality.before_refusal <= quality.ports
