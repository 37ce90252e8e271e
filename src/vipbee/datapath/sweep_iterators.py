# SPDX-License-Identifier: Apache-2.0
"""The sweep in the kernel: iterators of bpf/sweep.bpf.c, read a step at a time.

One byte comes out for each element met (SweepOutcome), so the size of a read() bounds how
long the kernel is busy with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np

from vipbee.core.snapshot import Records

STEP_ELEMENTS = 256
"""About 0.1 ms of the kernel's time if all stay, 0.5 ms if all go."""
REST_S = 10e-6
"""So much time for each element that goes, the walk included, which takes longer if few go: the
kernel frees them in bulk, and while it frees a hundred thousand at once a packet on that CPU
would wait for tens of milliseconds (so: 8)."""
_WORTH_A_REST = 128


def read_sweep(iterator: int) -> Iterator[Records]:
    """Sweep by reading this fd, which is closed then; a SweepOutcome (u1) for each element."""
    try:
        removed, since = 0, time.monotonic()
        while step := os.read(iterator, STEP_ELEMENTS):
            outcomes = np.frombuffer(step, np.uint8)
            yield outcomes
            removed += int(np.count_nonzero(outcomes))
            if removed >= _WORTH_A_REST:
                time.sleep(max(removed * REST_S - (time.monotonic() - since), 0.0))
                removed, since = 0, time.monotonic()
    finally:
        os.close(iterator)
