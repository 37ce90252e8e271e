# SPDX-License-Identifier: Apache-2.0
"""The sweep in the kernel: iterators of bpf/sweep.bpf.c, read a step at a time.

One byte comes out for each element met (SweepOutcome), so the size of a read() bounds how
long the kernel is busy with it. Opens pins anew each time: they may have been repaired.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import numpy as np

from vipbee.abi import MapName
from vipbee.core.snapshot import Records
from vipbee.datapath import syscall
from vipbee.datapath.features import SWEEP_PROGRAMS
from vipbee.datapath.pins import PinDirectory

STEP_ELEMENTS = 256
"""About 0.1 ms of the kernel's time if all stay, 0.5 ms if all go."""
REST_S = 10e-6
"""After a step, for each element that went: the kernel frees them in bulk, and while it frees
a hundred thousand at once a packet on that CPU would wait for tens of milliseconds (so: 8)."""
_WORTH_A_REST = 128


def is_available(directory: PinDirectory) -> bool:
    """Whether the kernel took the iterators."""
    return set(SWEEP_PROGRAMS) <= set(directory.names("programs"))


def max_entries(directory: PinDirectory, name: MapName) -> int:
    """The size of a pinned map; FileNotFoundError if there is none."""
    with contextlib.ExitStack() as stack:
        return syscall.map_info(_opened(stack, directory, "maps", name)).max_entries


def sweep_map(directory: PinDirectory, program: str, name: MapName) -> Iterator[Records]:
    """Sweep one map by this iterator; a SweepOutcome (u1) for each element, step by step.

    OSError if a pin is missing or the kernel has no memory for the iterator.
    """
    with contextlib.ExitStack() as stack:
        program_fd = _opened(stack, directory, "programs", program)
        map_fd = _opened(stack, directory, "maps", name)
        link = syscall.link_create_iter(program_fd, map_fd)
        stack.callback(os.close, link)
        iterator = syscall.iter_create(link)
        stack.callback(os.close, iterator)
        removed = 0
        while step := os.read(iterator, STEP_ELEMENTS):
            outcomes = np.frombuffer(step, np.uint8)
            yield outcomes
            removed += int(np.count_nonzero(outcomes))
            if removed >= _WORTH_A_REST:
                time.sleep(removed * REST_S)
                removed = 0


def _opened(stack: contextlib.ExitStack, directory: PinDirectory, kind: str, name: str) -> int:
    fd = directory.get(kind, name)
    if fd is None:
        raise FileNotFoundError(f"the pin {kind}/{name} is missing")
    stack.callback(os.close, fd)
    return fd
