# SPDX-License-Identifier: Apache-2.0
"""Every error vipbee raises on purpose, and what is done about each.

    VipbeeError
    ├── UsageError           command line or configuration is wrong  → exit 2
    ├── EnvironmentUnusable  kernel, cgroup, bpffs, capability       → exit 3, one remedy
    ├── SourceError          objects cannot be read now              → last good state, retry
    ├── ObjectError          one object is invalid                   → skip it, by name
    ├── CapacityError        a map is too small for one Service      → refuse that one whole
    └── KernelError          bpf(2) or netlink said no               → exit 1

Anything else is a programming error and ends the process; the kernel keeps
forwarding.
"""

from __future__ import annotations

import os


class VipbeeError(Exception):
    """Base class. The message is one sentence a person can act on."""

    exit_code = 1


class UsageError(VipbeeError):
    """Bad command line or configuration."""

    exit_code = 2


class EnvironmentUnusable(VipbeeError):  # noqa: N818 (a state, not an event)
    """This machine cannot run vipbee as it is; `remedy` is the one thing to do."""

    exit_code = 3

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy


class SourceError(VipbeeError):
    """A source of objects cannot be read; the last good state stays in force."""


class ObjectError(VipbeeError):
    """One object is invalid: `name` says which, the message why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class CapacityError(VipbeeError):
    """Map `map_name` has no room for this Service."""

    def __init__(self, map_name: str, *, needed: int, free: int) -> None:
        super().__init__(f"map {map_name} is full: {needed} entries needed, {free} free")
        self.map_name = map_name
        self.needed = needed
        self.free = free


class KernelError(VipbeeError):
    """A kernel interface refused; `errno` as in errno.h."""

    def __init__(self, what: str, errno: int, detail: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(errno)}{': ' + detail if detail else ''}")
        self.what = what
        self.errno = errno
        self.detail = detail
