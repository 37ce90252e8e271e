# SPDX-License-Identifier: Apache-2.0
"""How long to wait for what, and the growing, jittered pause between attempts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. The defaults find a half-open watch within a minute (F6):

    the server is asked to end each watch after `watch_s` (and sends a bookmark just before
    that), so a stream that is silent for `watch_s + grace_s` has no server any more. It ends
    in order otherwise, and the next one takes the same connection.
    """

    watch_s: int = 40
    grace_s: float = 10.0
    connect_s: float = 5.0
    read_s: float = 30.0  # without a byte of an answer to a list
    outage_s: float = 10.0  # a server gone for longer may have come back with another past (F16)
    relist_s: float = 3600.0  # ± 20 %: a belt for what no protocol shows (F16)
    backoff_first_s: float = 0.25
    backoff_last_s: float = 15.0
    page_size: int = 1000

    @property
    def silence_s(self) -> float:
        """Silence after which a watch is given up."""
        return self.watch_s + self.grace_s


class Backoff:
    """Pause before the next attempt: doubles, and half of it is chance (F13)."""

    def __init__(self, timing: Timing, chance: Callable[[], float] = random.random) -> None:
        self._timing = timing
        self._chance = chance
        self._failures = 0

    @property
    def failures(self) -> int:
        return self._failures

    def reset(self) -> None:
        self._failures = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait now; what the server asks for counts as the least (F12)."""
        longest = self._timing.backoff_last_s
        full = min(longest, self._timing.backoff_first_s * float(1 << min(self._failures, 30)))
        self._failures += 1
        pause = full * (0.5 + self._chance() / 2)
        if retry_after_s is not None:
            # a server that asks for hours is not obeyed: nobody would look for that
            pause = max(pause, min(retry_after_s, 60.0) * (1 + self._chance() / 4))
        return pause
