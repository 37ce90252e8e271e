# SPDX-License-Identifier: Apache-2.0
"""A client that connects all the time, to notice the one moment when it cannot.

with connecting(hooked, stack, stack.vip(10), 80) as tally:
    ...  # change, kill, restart
assert tally.failures == []
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import time
from collections.abc import Callable, Iterator

from tests.support.hooked import Hooked
from tests.support.servers import asked
from tests.support.stacks import Stack

_PAUSE_S = 0.0005
_COUNT = struct.Struct("=QQ")
_TEXT_AT = 16


class Tally:
    """What the stream met so far; shared with the client's process."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def add(self, failure: str | None) -> None:
        attempts, failed = _COUNT.unpack_from(self._memory)
        if failure is not None and not failed:
            self._memory[_TEXT_AT : _TEXT_AT + 200] = failure.encode()[:200].ljust(200, b"\0")
        _COUNT.pack_into(self._memory, 0, attempts + 1, failed + (failure is not None))

    @property
    def attempts(self) -> int:
        return int(_COUNT.unpack_from(self._memory)[0])

    @property
    def failures(self) -> list[str]:
        """Empty, or one text: how many, and the first."""
        failed = _COUNT.unpack_from(self._memory)[1]
        text = self._memory[_TEXT_AT : _TEXT_AT + 200].rstrip(b"\0").decode()
        return [f"{failed} failed, the first: {text}"] if failed else []

    def wait_for(self, more: int, timeout_s: float = 10.0) -> None:
        """Until so many further attempts were made."""
        wanted, deadline = self.attempts + more, time.monotonic() + timeout_s
        while self.attempts < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError("the stream does not move")
            time.sleep(0.001)


@contextlib.contextmanager
def connecting(hooked: Hooked, stack: Stack, address: str, port: int) -> Iterator[Tally]:
    """Connect over TCP, read the backend's name, close; again and again, some 1,000 a second."""
    tally = Tally()

    def serve(ready: Callable[[], None]) -> None:
        ready()
        while True:
            tally.add(_attempt(stack, address, port))
            time.sleep(_PAUSE_S)

    child = hooked.start(serve)
    try:
        tally.wait_for(5)
        yield tally
        tally.wait_for(5)
    finally:
        child.stop()


def _attempt(stack: Stack, address: str, port: int) -> str | None:
    try:
        with stack.tcp() as sock:
            # a reset instead of TIME_WAIT: there are only 28,000 ports
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            sock.connect(stack.at(address, port))
            asked(sock)
    except OSError as error:
        return repr(error)
    return None
