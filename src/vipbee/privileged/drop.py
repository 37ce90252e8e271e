# SPDX-License-Identifier: Apache-2.0
"""Giving up rights for good: user, groups, every capability, and the way back to any.

Rights belong to threads, so this must happen while there is one. What was done is read
back from the kernel: a process that believes to be harmless and is not is the worst case.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import struct
from collections.abc import Collection
from pathlib import Path

from vipbee.datapath import syscall
from vipbee.privileged.user import User

CAP_BPF = 39
_CAP_LAST = Path("/proc/sys/kernel/cap_last_cap")
_BPF_DISABLED = Path("/proc/sys/kernel/unprivileged_bpf_disabled")
_SETTLED_RELEASE = (5, 19)
"""From here on a process needs no capability for maps it has been given an fd of (c8644cd0efe7)."""

# linux/prctl.h
_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_DROP = 4, 8, 24
_SET_NO_NEW_PRIVS, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION = 0x20080522
_NO_FD = (1 << 31) - 1
_LIBC = c.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = [c.c_int, *[c.c_ulong] * 4]


def drop_rights(user: User, *, keep: Collection[int] = ()) -> None:
    """Become `user` with the capabilities `keep` and no way to more; raise OSError.

    Takes CAP_SETUID, CAP_SETGID and CAP_SETPCAP, if the user is another one.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("rights are given up by the only thread or by none")
    is_other = (os.geteuid(), os.getegid()) != (user.uid, user.gid)
    _prctl(_SET_KEEPCAPS, 1 if keep else 0)
    for number in range(int(_CAP_LAST.read_text()) + 1):
        try:
            _prctl(_CAPBSET_DROP, number)
        except PermissionError:
            if is_other:
                raise
            break  # without CAP_SETPCAP; nothing that is not set can be had without exec anyway
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    if is_other:
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    _set_capabilities(effective=keep, permitted=keep)
    _prctl(_SET_NO_NEW_PRIVS, 1)
    _prctl(_SET_DUMPABLE, 0)  # others of this user neither trace it nor read its memory
    _check(user, keep)


def maps_need_capability() -> bool:
    """Whether bpf(2) refuses even work on maps that are open to a process without CAP_BPF.

    Asked by doing it, without the capabilities for a moment: a bad fd is EBADF or EPERM.
    """
    permitted = _permitted()
    _set_capabilities(effective=(), permitted=permitted)
    try:
        syscall.map_info(_NO_FD)
    except OSError as error:
        if error.errno == errno.EPERM:
            return True
    finally:
        _set_capabilities(effective=permitted, permitted=permitted)
    # below, the sysctl alone decides, and it may be set later
    return not _is_disabled() and _release() < _SETTLED_RELEASE


def _is_disabled() -> bool:
    try:
        return _BPF_DISABLED.read_text().strip() != "0"
    except OSError:
        return True


def _release() -> tuple[int, ...]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _check(user: User, keep: Collection[int]) -> None:
    state = read_rights(os.getpid())
    mask = sum(1 << number for number in keep)
    if state is None or state.uids != {user.uid} or state.permitted != mask:
        raise OSError(errno.EPERM, "rights were given up, but the kernel still shows them")


class Rights:
    """Of one process, as the kernel shows them."""

    def __init__(self, status: str) -> None:
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        self.uids = {int(number) for number in fields["Uid"].split()}
        self.permitted = int(fields["CapPrm"], 16)
        self.bounding = int(fields["CapBnd"], 16)
        self.has_no_new_privileges = fields.get("NoNewPrivs", "0").strip() == "1"


def read_rights(pid: int) -> Rights | None:
    """None if there is no such process here."""
    try:
        return Rights(Path(f"/proc/{pid}/status").read_text())
    except (OSError, KeyError):
        return None


def _permitted() -> list[int]:
    rights = read_rights(os.getpid())
    mask = rights.permitted if rights is not None else 0
    return [number for number in range(64) if mask >> number & 1]


def _set_capabilities(*, effective: Collection[int], permitted: Collection[int]) -> None:
    masks = [sum(1 << number for number in chosen) for chosen in (effective, permitted)]
    words = [(mask >> shift) & 0xFFFFFFFF for shift in (0, 32) for mask in masks]
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    # struct __user_cap_data_struct, twice: effective, permitted, inheritable
    data = struct.pack("=6I", words[0], words[1], 0, words[2], words[3], 0)
    if _LIBC.capset(header, data):
        raise OSError(c.get_errno(), f"capset: {os.strerror(c.get_errno())}")


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        number = c.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")
