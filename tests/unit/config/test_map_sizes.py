# SPDX-License-Identifier: Apache-2.0
"""Map sizes follow the machine's memory."""

from __future__ import annotations

import pytest

from vipbee.config.map_sizes import MapSizes

GIB = 1 << 30


def array_bytes(sizes: MapSizes) -> int:
    """Kernel memory taken up front, by the table in map_sizes.py."""
    return sizes.backends * 48 + sizes.slots * 8 + sizes.services * 64


@pytest.mark.parametrize("memory_gib", [23, 23.4, 24])
def test_24_gib_hold_a_hundred_thousand_services_of_ten_endpoints(memory_gib: float) -> None:
    """Also when the kernel keeps some of it back."""
    sizes = MapSizes.for_memory(int(memory_gib * GIB))

    assert sizes.services == 131_072
    assert sizes.backends == 1_048_576
    assert sizes.slots == 2_097_152
    assert sizes.frontends == 262_144


@pytest.mark.parametrize("memory_gib", range(8, 33))
def test_the_arrays_take_about_a_third_of_a_percent(memory_gib: int) -> None:
    share = array_bytes(MapSizes.for_memory(memory_gib * GIB)) / (memory_gib * GIB)

    assert 0.002 < share < 0.0045


@pytest.mark.parametrize("memory", [0, 1, GIB // 2])
def test_a_small_machine_gets_the_floor(memory: int) -> None:
    sizes = MapSizes.for_memory(memory)

    assert sizes == MapSizes()
    assert (sizes.services, sizes.backends) == (32_768, 65_536)


def test_a_huge_machine_gets_the_ceiling() -> None:
    sizes = MapSizes.for_memory(4096 * GIB)

    assert (sizes.services, sizes.backends, sizes.slots) == (262_144, 1_048_576, 2_097_152)


def test_sizes_grow_with_memory() -> None:
    sizes = [MapSizes.for_memory(gib * GIB) for gib in range(1, 200)]

    for name in MapSizes.names():
        series = [getattr(size, name) for size in sizes]
        assert series == sorted(series)


def test_an_override_changes_that_size_only() -> None:
    sizes = MapSizes().with_overrides({"affinity": 100})

    assert sizes == MapSizes(affinity=100)
