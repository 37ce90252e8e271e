# SPDX-License-Identifier: Apache-2.0
"""Other network namespaces of this machine: found by inode or cookie, entered by a thread.

`setns` counts for the calling thread only, so the process itself never leaves its own. One
that no process and no /run/netns entry holds cannot be found; entering takes CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vipbee.datapath.netns_cookie import netns_cookie

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")

T = TypeVar("T")


class NamespaceGoneError(Exception):
    """It went away, before or after it was found, and its sockets and devices with it."""


def namespace_paths() -> dict[int, Path]:
    """A path for each network namespace that can be entered, by inode; its name if it has one."""
    found: dict[int, Path] = {}
    candidates = [_NAMED / name for name in os.listdir(_NAMED)] if _NAMED.is_dir() else []
    candidates += [Path("/proc", pid, "ns", "net") for pid in os.listdir("/proc") if pid.isdigit()]
    for path in candidates:
        try:
            found.setdefault(path.stat().st_ino, path)
        except OSError:
            continue  # the process has gone
    return found


def find_by_cookie(cookie: int) -> Path | None:
    """The namespace that BPF programs know by this number; None without the right to look."""
    for path in namespace_paths().values():
        try:
            if inside(path, netns_cookie) == cookie:
                return path
        except NamespaceGoneError:
            continue
        except OSError:  # no right
            continue
    return None


def inside(namespace: Path, action: Callable[[], T]) -> T:
    """Run `action` in a network namespace, in a thread of its own that ends with it."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            _enter(namespace)
            result.append(action())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _enter(namespace: Path) -> None:
    try:
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NamespaceGoneError(str(namespace)) from None
    try:
        libc = c.CDLL(None, use_errno=True)  # os.setns is Python 3.12
        if libc.setns(fd, _CLONE_NEWNET):
            if c.get_errno() == errno.EINVAL:  # what is left in /run/netns of one that is gone
                raise NamespaceGoneError(str(namespace))
            raise OSError(c.get_errno(), "setns")
    finally:
        os.close(fd)
