# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipbee.abi import MapName
from vipbee.core.ids import IdPool, RunPool
from vipbee.errors import CapacityError


def pool(size: int) -> IdPool:
    return IdPool(MapName.BACKENDS, size)


def test_id_zero_is_never_given_out() -> None:
    assert pool(4).take(3).tolist() == [1, 2, 3]


def test_a_released_id_rests_for_two_reclaims() -> None:
    ids = pool(3)
    ids.take(2)
    ids.release([1])

    ids.reclaim()
    assert ids.free == 0

    assert ids.reclaim() == 1
    assert ids.take(1).tolist() == [1]


def test_the_longest_unused_id_comes_first() -> None:
    ids = pool(5)
    ids.take(3)
    ids.release([2, 1])
    ids.reclaim()
    ids.reclaim()

    assert ids.take(3).tolist() == [4, 2, 1]


def test_too_many_ids_are_refused_and_none_is_taken() -> None:
    """F35"""
    ids = pool(4)

    with pytest.raises(CapacityError, match="map backends is full: 4 entries needed, 3 free"):
        ids.take(4)

    assert ids.free == 3


def test_adopted_ids_are_taken_and_stray_ones_rest() -> None:
    ids = pool(7)
    ids.adopt(np.array([2, 5]), np.array([3, 5]))

    assert ids.take(3).tolist() == [6, 1, 4]
    assert ids.free == 0
    ids.reclaim()
    ids.reclaim()
    assert ids.take(1).tolist() == [3]


def test_a_run_comes_from_the_smallest_hole_that_fits() -> None:
    runs = RunPool(20)
    firsts = [runs.take(length) for length in (4, 1, 2, 1)]
    runs.release(firsts[0], 4)
    runs.release(firsts[2], 2)
    runs.reclaim()
    runs.reclaim()

    assert runs.take(2) == firsts[2]
    assert runs.take(3) == firsts[0]


def test_neighbouring_runs_merge_when_they_come_free() -> None:
    runs = RunPool(6)
    firsts = [runs.take(2) for _ in range(3)]
    for first in (firsts[0], firsts[2], firsts[1]):
        runs.release(first, 2)
    runs.reclaim()
    runs.reclaim()

    assert runs.take(6) == 0


def test_a_run_that_fits_nowhere_is_refused_with_the_longest_free() -> None:
    runs = RunPool(6)
    firsts = [runs.take(2) for _ in range(3)]
    runs.release(firsts[0], 2)
    runs.release(firsts[2], 2)
    runs.reclaim()
    runs.reclaim()

    with pytest.raises(CapacityError, match="map slots is full: 3 entries needed, 2 free"):
        runs.take(3)
    assert runs.free == 4


def test_an_empty_run_takes_nothing() -> None:
    runs = RunPool(0)

    assert runs.take(0) == 0
    runs.release(0, 0)
    assert runs.reclaim() == 0


def test_adopted_runs_are_taken_and_seen_slots_rest() -> None:
    runs = RunPool(8)
    used = np.array([0, 1, 1, 0, 0, 0, 0, 0], bool)
    seen = np.array([0, 1, 1, 1, 0, 0, 0, 1], bool)
    runs.adopt(used, seen)

    assert (runs.free, runs.largest) == (4, 3)
    runs.reclaim()
    runs.reclaim()
    assert (runs.free, runs.largest) == (6, 5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 9), st.just("release"), st.just("reclaim")), max_size=60))
def test_runs_never_overlap_and_none_is_lost(steps: list[int | str]) -> None:
    runs = RunPool(40)
    held: list[tuple[int, int]] = []
    for step in steps:
        if step == "release" and held:
            runs.release(*held.pop(len(held) // 2))
        elif step == "reclaim":
            runs.reclaim()
        elif isinstance(step, int) and step <= runs.largest:
            held.append((runs.take(step), step))
        taken = [slot for first, length in held for slot in range(first, first + length)]
        assert len(taken) == len(set(taken)) <= 40 - runs.free

    for first, length in held:
        runs.release(first, length)
    runs.reclaim()
    runs.reclaim()
    assert runs.take(40) == 0
