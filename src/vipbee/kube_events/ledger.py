# SPDX-License-Identifier: Apache-2.0
"""Which Event is sent when: each thing once, again only rarely, all of them slowly. Pure.

    seen ─► due at once ─► sent ─► due again after 30 min while it lasts
                                   (Events live for an hour), or 5 min after
                                   the last time if it went and came back

Tokens bound what one agent asks of the API server, whatever goes wrong: 20 at once, then one
in 10 s. Times are seconds of any one clock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vipbee.kube_events.notes import Note

BURST = 20
REFILL_S = 10.0
REPEAT_S = 1800.0
FLAP_S = 300.0
MAX_NOTES = 1000
"""Remembered; what is beyond is in the log and in `vipbee status` only."""


@dataclass(slots=True)
class _Entry:
    is_lasting: bool = True
    has_returned: bool = False  # since it was sent
    times_sent: int = 0
    sent_at: float | None = None

    def due_at(self, now: float) -> float:
        """When to send it; not before `now`."""
        if self.sent_at is None:
            return now
        return max(self.sent_at + (FLAP_S if self.has_returned else REPEAT_S), now)


class Ledger:
    """What is wrong now, what was, and what of that the API server was told."""

    def __init__(self, now: float) -> None:
        self._entries: dict[Note, _Entry] = {}
        self._tokens = float(BURST)
        self._filled_at = now

    def observe(self, notes: Collection[Note]) -> None:
        """Exactly these are true now."""
        for note, entry in self._entries.items():
            entry.is_lasting = entry.is_lasting and note in notes
        for note in sorted(notes):
            known = self._entries.get(note)
            if known is None:
                if len(self._entries) < MAX_NOTES or self._forget_one():
                    self._entries[note] = _Entry()
            elif not known.is_lasting:
                known.is_lasting = known.has_returned = True

    def take(self, now: float) -> Note | None:
        """What to send now, if anything, for a token; without `sent` it comes again."""
        self._tokens = min(float(BURST), self._tokens + (now - self._filled_at) / REFILL_S)
        self._filled_at = now
        due = [(entry.due_at(now), note) for note, entry in self._lasting()]
        if self._tokens < 1 or not due or min(due)[0] > now:
            return None
        self._tokens -= 1
        return min(due)[1]

    def wait_s(self, now: float) -> float | None:
        """Until `take` may return something; None: not before something is observed."""
        due = [entry.due_at(now) for _, entry in self._lasting()]
        return max(min(due) - now, (1 - self._tokens) * REFILL_S, 0.0) if due else None

    def sent(self, note: Note, now: float) -> None:
        """It is there now, or never will be: not again soon."""
        entry = self._entries.setdefault(note, _Entry(is_lasting=False))
        entry.sent_at, entry.has_returned = now, False
        entry.times_sent += 1

    def times_sent(self, note: Note) -> int:
        entry = self._entries.get(note)
        return entry.times_sent if entry is not None else 0

    def _lasting(self) -> list[tuple[Note, _Entry]]:
        return [(note, entry) for note, entry in self._entries.items() if entry.is_lasting]

    def _forget_one(self) -> bool:
        """Make room by what is over, the oldest first; False if nothing is."""
        over = [
            (entry.sent_at or 0.0, note)
            for note, entry in self._entries.items()
            if not entry.is_lasting
        ]
        if over:
            del self._entries[min(over)[1]]
        return bool(over)
