# SPDX-License-Identifier: Apache-2.0
"""The iterators that sweep, as they are pinned. Who has the fd of a running one may read it.

Must not import NumPy: the privileged process, which stays small, opens them.
"""

from __future__ import annotations

import contextlib
import os

from vipbee.datapath import syscall
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.programs import SWEEP_PROGRAMS, UNFINISHED


class Sweeps:
    """Opens pins anew each time: they may have been repaired."""

    def __init__(self, directory: PinDirectory) -> None:
        self._directory = directory

    def are_available(self) -> bool:
        """Whether the kernel took the iterators."""
        return set(SWEEP_PROGRAMS) <= set(self._directory.names("programs"))

    def open(self, program: str, *, unfinished: bool = False) -> int:
        """An fd whose read() sweeps the map of this iterator, a step each.

        Or, with `unfinished`, that of connections that are not established.

        OSError if a pin is missing or the kernel has no memory for the iterator.
        """
        name = SWEEP_PROGRAMS[program]
        with contextlib.ExitStack() as stack:
            program_fd = self._opened(stack, "programs", program)
            map_fd = self._opened(stack, "maps", UNFINISHED[name] if unfinished else name)
            link = syscall.link_create_iter(program_fd, map_fd)
            stack.callback(os.close, link)
            return syscall.iter_create(link)

    def _opened(self, stack: contextlib.ExitStack, kind: str, name: str) -> int:
        fd = self._directory.get(kind, name)
        if fd is None:
            raise FileNotFoundError(f"the pin {kind}/{name} is missing")
        stack.callback(os.close, fd)
        return fd
