# SPDX-License-Identifier: Apache-2.0
"""Wait for a fact, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.01


def eventually(fact: Callable[[], object], *, within_s: float = 5.0, what: str = "") -> float:
    """Wait until `fact()` is true; seconds it took. AssertionError if it never is."""
    started = time.monotonic()
    while not fact():
        if time.monotonic() - started > within_s:
            raise AssertionError(f"not true within {within_s} s: {what or fact}")
        time.sleep(POLL_S)
    return time.monotonic() - started
