# SPDX-License-Identifier: Apache-2.0
"""Where cgroup v2 and bpffs are, read from /proc, and mounting bpffs if it is not."""

from __future__ import annotations

import contextlib
import ctypes as c
import os
import re
from pathlib import Path
from typing import NamedTuple

from vipbee.errors import EnvironmentUnusable

DEFAULT_BPFFS = Path("/sys/fs/bpf")
HOST_ROOT_INODE = 1
"""kernfs: of the root of all cgroups, whatever a cgroup namespace shows as "/"."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    root: str  # which directory of the filesystem is mounted: "/" unless bind-mounted
    point: Path
    fstype: str


def mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """The mount table, oldest first."""
    table = []
    for line in mountinfo.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split()
        table.append(Mount(_path(fields[3]), Path(_path(fields[4])), _path(after.split()[0])))
    return table


def _path(field: bytes) -> str:
    """Any bytes may stand in a mount point; \\040 stands for a space."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def mount_of(path: Path, table: list[Mount]) -> Mount:
    """The mount that holds `path`: the longest mount point above it, the newest of equals."""
    above = [m for m in table if path == m.point or m.point in path.parents]
    return max(reversed(above), key=lambda m: len(m.point.parts))


def find_cgroup_root(table: list[Mount] | None = None) -> Path:
    """The host's root of cgroup v2; raise EnvironmentUnusable if it is not visible here.

    A mount may show a subtree only (a container's view): hooks there would miss every
    other program of the node (F49). Its root is "/" all the same in a cgroup namespace.
    """
    found = [m for m in table or mounts() if m.fstype == "cgroup2"]
    if not found:
        raise EnvironmentUnusable(
            "no cgroup v2 is mounted",
            remedy="mount it: mkdir -p /run/vipbee/cgroup2 && "
            "mount -t cgroup2 none /run/vipbee/cgroup2",
        )
    for mount in found:
        with contextlib.suppress(OSError):
            if mount.point.stat().st_ino == HOST_ROOT_INODE:
                return mount.point
    raise EnvironmentUnusable(
        f"{found[0].point} shows only a part of the cgroup v2 tree",
        remedy="run in the host's cgroup namespace, or name the host's root with --cgroup-root",
    )


def ensure_bpffs(path: Path) -> None:
    """Make sure that `path` lies on a bpffs: mount /sys/fs/bpf, or `path` itself, if not."""
    path = path.absolute()
    if mount_of(path, mounts()).fstype == "bpf":
        return
    point = DEFAULT_BPFFS if DEFAULT_BPFFS in path.parents else path
    point.mkdir(parents=True, exist_ok=True)
    libc = c.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(point), b"bpf", 0, b"mode=0700"):
        number = c.get_errno()
        raise EnvironmentUnusable(
            f"bpffs cannot be mounted on {point} ({os.strerror(number)})",
            remedy=f"mount it before the agent starts: mount -t bpf bpf {point}",
        )
