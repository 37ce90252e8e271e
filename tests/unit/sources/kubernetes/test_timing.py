# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts: F12, F13."""

from __future__ import annotations

from vipbee.sources.kubernetes.timing import Backoff, Timing

TIMING = Timing(backoff_first_s=1.0, backoff_last_s=8.0)


def test_pauses_double_up_to_the_last() -> None:
    """F13."""
    backoff = Backoff(TIMING, chance=lambda: 1.0)

    assert [backoff.next_s() for _ in range(6)] == [1, 2, 4, 8, 8, 8]

    backoff.reset()
    assert backoff.next_s() == 1


def test_half_of_a_pause_is_chance() -> None:
    """F13: a thousand agents do not come back at the same time."""
    low, high = (Backoff(TIMING, chance=lambda value=value: value) for value in (0.0, 1.0))

    assert (low.next_s(), high.next_s()) == (0.5, 1.0)


def test_what_the_server_asks_for_is_the_least() -> None:
    """F12: Retry-After, with chance on top; an hour is not believed."""
    backoff = Backoff(TIMING, chance=lambda: 0.0)

    assert backoff.next_s(5) == 5
    assert backoff.next_s(3600) == 60
    assert Backoff(TIMING, chance=lambda: 1.0).next_s(8) == 10


def test_many_failures_do_not_overflow() -> None:
    """F4: a server that is away for a day."""
    backoff = Backoff(TIMING, chance=lambda: 1.0)
    for _ in range(20_000):
        last = backoff.next_s()

    assert last == 8
