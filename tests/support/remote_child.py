# SPDX-License-Identifier: Apache-2.0
"""The far end of tests/support/remote.py: makes sockets and calls their methods on request.

Runs in a place of a lab, hence in its cgroup, where the hooks see what it does. Standard
library only, by path: `python -IS remote_child.py`.

    request   (handle or None, method, arguments)    None: a function of this file
    reply     (True, result) or (False, OSError)     pickled, one after the other
"""

from __future__ import annotations

import itertools
import pickle
import socket
import sys
from typing import Any

TIMEOUT_S = 5.0

sockets: dict[int, socket.socket] = {}
_handles = itertools.count(1)


def make(family: str, kind: str) -> int:
    made = socket.socket(getattr(socket, family), getattr(socket, kind))
    made.settimeout(TIMEOUT_S)
    sockets[handle := next(_handles)] = made
    return handle


def close(handle: int) -> None:
    sockets.pop(handle).close()


def serve() -> None:
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            handle, method, arguments = pickle.load(requests)
        except EOFError:
            return
        target: Any = globals()[method] if handle is None else getattr(sockets[handle], method)
        try:
            reply: tuple[bool, Any] = (True, target(*arguments))
        except OSError as error:
            reply = (False, error)
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    serve()
