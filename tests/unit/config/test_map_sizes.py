# SPDX-License-Identifier: Apache-2.0
"""Map sizes follow the machine's memory."""

from __future__ import annotations

import pytest

from vipbee.config.map_sizes import MapSizes
from vipbee.errors import UsageError

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


@pytest.mark.parametrize("cpus", [1, 2, 16, 64, 256, 1024])
@pytest.mark.parametrize("memory_gib", [1, 4, 24, 512])
def test_sizes_that_nobody_chose_suit_the_machine(memory_gib: int, cpus: int) -> None:
    """D119: an LRU map is never so small that the free lists of its CPUs fill it."""
    memory = max(memory_gib, cpus // 4) * GIB  # nobody builds 1,024 CPUs with 1 GiB

    assert MapSizes.for_memory(memory, cpus).problems(memory, cpus) == []


def test_half_a_million_connections_fit_on_24_gib() -> None:
    """Issue 3 §3, for each zone."""
    sizes = MapSizes.for_memory(24 * GIB, 8)

    assert sizes.conntrack >= 512 * 1024
    assert sizes.bytes_when_full < 0.025 * 24 * GIB


@pytest.mark.parametrize("name", ["affinity", "conntrack_new", "fragments", "udp_flows"])
def test_an_lru_map_too_small_for_its_cpus_is_named_or_refused(name: str) -> None:
    """D119: below what the free lists of its CPUs may hold it would evict all the time."""
    chosen = MapSizes.for_memory(8 * GIB, 64)

    (problem,) = chosen.with_overrides({name: 32_768}).problems(8 * GIB, 64)

    assert problem.startswith(f"{name} of 32768 entries is too small for 64 CPUs")
    assert problem.endswith("give it at least 65536")
    with pytest.raises(UsageError, match=f"map-sizes: {name} of 4096 entries is too small"):
        chosen.with_overrides({name: 4096}).problems(8 * GIB, 64)


def test_sizes_too_large_for_the_memory_are_named() -> None:
    (problem,) = MapSizes(conntrack=1 << 21).problems(4 * GIB, 4)

    assert problem.startswith("they take up to 1")
    assert problem.endswith("more than a quarter of this machine's 4096 MiB: give smaller ones")


def test_sizes_the_machine_has_no_memory_for_are_refused() -> None:
    """F64"""
    with pytest.raises(UsageError, match=r"map-sizes take .* MiB at once, more than half"):
        MapSizes(backends=1 << 26).problems(4 * GIB, 4)
