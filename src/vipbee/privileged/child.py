# SPDX-License-Identifier: Apache-2.0
"""Does something in a process that ends with it, so that its memory and modules go as well."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

from vipbee.errors import EnvironmentUnusable, VipbeeError


def fork() -> int:
    """As os.fork(); raise EnvironmentUnusable if there is no process to be had."""
    try:
        return os.fork()
    except OSError as error:
        raise EnvironmentUnusable(
            f"no process can be started ({error.strerror})",
            remedy="raise the limit of processes (pids.max, TasksMax), or free memory",
        ) from None


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
    if fork() == 0:
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
    except BaseException as error:
        _complain(error)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _complain(error: BaseException) -> None:
    if isinstance(error, VipbeeError):
        print(f"vipbee: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def _write(fd: int, data: bytes) -> None:
    with open(fd, "wb") as file:
        file.write(data)
