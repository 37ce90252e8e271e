# SPDX-License-Identifier: Apache-2.0
"""Each thing once, again only rarely, all of them slowly."""

from __future__ import annotations

from vipbee.kube_events.ledger import BURST, FLAP_S, MAX_NOTES, REFILL_S, REPEAT_S, Ledger
from vipbee.kube_events.notes import Note

NOW = 1000.0


def note(number: int = 0) -> Note:
    return Note("Service", "default", f"web-{number:04}", "", "MapFull", "full", "node-a")


def send_all(ledger: Ledger, now: float) -> list[Note]:
    found = []
    while (due := ledger.take(now)) is not None:
        ledger.sent(due, now)
        found.append(due)
    return found


def test_problem_that_lasts_is_told_once_and_again_after_half_an_hour() -> None:
    ledger = Ledger(NOW)
    ledger.observe([note()])

    first = send_all(ledger, NOW)
    ledger.observe([note()])
    later = send_all(ledger, NOW + REPEAT_S - 1)
    again = send_all(ledger, NOW + REPEAT_S)

    assert (first, later, again) == ([note()], [], [note()])
    assert ledger.times_sent(note()) == 2


def test_problem_that_comes_and_goes_is_told_every_five_minutes_at_most() -> None:
    ledger = Ledger(NOW)
    told = []

    for second in range(1000):
        ledger.observe([note()] if second % 2 == 0 else [])
        told += [second for _ in send_all(ledger, NOW + second)]

    assert told == [0, FLAP_S, 2 * FLAP_S, 3 * FLAP_S]


def test_problem_that_is_over_before_it_was_told_is_not_told() -> None:
    ledger = Ledger(NOW)
    ledger.observe([note()])
    ledger.observe([])

    assert ledger.take(NOW) is None
    assert ledger.wait_s(NOW) is None


def test_many_problems_are_told_slowly() -> None:
    """A burst, then one in ten seconds, whatever happens."""
    ledger = Ledger(NOW)
    ledger.observe([note(n) for n in range(BURST + 5)])

    burst = send_all(ledger, NOW)
    wait_s = ledger.wait_s(NOW)
    early = send_all(ledger, NOW + REFILL_S - 1)
    next_ones = send_all(ledger, NOW + 3 * REFILL_S)

    assert len(burst) == BURST
    assert wait_s == REFILL_S
    assert early == []
    assert next_ones == [note(BURST), note(BURST + 1), note(BURST + 2)]


def test_what_was_not_sent_comes_again_for_another_token() -> None:
    ledger = Ledger(NOW)
    ledger.observe([note()])

    attempts = [ledger.take(NOW) for _ in range(BURST + 1)]

    assert attempts == [note()] * BURST + [None]


def test_memory_is_bounded_and_what_is_over_makes_room() -> None:
    ledger = Ledger(NOW)
    ledger.observe([note(n) for n in range(MAX_NOTES)])
    ledger.observe([note(n) for n in range(1, MAX_NOTES + 1)])
    before = ledger.take(NOW)

    ledger.observe([note(MAX_NOTES)])

    assert before is not None
    assert ledger.take(NOW) == note(MAX_NOTES)


def test_nothing_to_tell_is_nothing_to_wait_for() -> None:
    ledger = Ledger(NOW)

    assert ledger.take(NOW) is None
    assert ledger.wait_s(NOW) is None
