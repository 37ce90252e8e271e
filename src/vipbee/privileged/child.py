# SPDX-License-Identifier: Apache-2.0
"""Does something in a process that ends with it, so that its memory and modules go as well."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable


def in_child(action: Callable[[], bytes], close: Callable[[], None]) -> bytes:
    """What `action` returned; raise RuntimeError if it raised. `close` is called in the child."""
    with open(start_child(action, close), "rb") as file:
        said = file.read()
    if not said:
        raise RuntimeError("a process of the privileged helper has died")
    return said


def start_child(action: Callable[[], bytes], close: Callable[[], None]) -> int:
    """The same, but do not wait: an fd to read it from; nothing comes if it raised."""
    answers, answer = os.pipe()
    if os.fork() == 0:
        os.close(answers)
        run_child(lambda: _write(answer, action()), close)
    os.close(answer)
    return answers


def reap_children() -> None:
    """Let go those that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def run_child(action: Callable[[], None], close: Callable[[], None]) -> None:
    """In a process that was just forked: run `action`, and end without coming back."""
    status = 1
    try:
        close()
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _write(fd: int, data: bytes) -> None:
    with open(fd, "wb") as file:
        file.write(data)
