# SPDX-License-Identifier: Apache-2.0
"""Where cgroup v2 and bpffs are, read from /proc, and mounting bpffs if it is not."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path
from typing import NamedTuple

from vipbee.errors import EnvironmentUnusable

DEFAULT_BPFFS = Path("/sys/fs/bpf")


class Mount(NamedTuple):
    root: str  # which directory of the filesystem is mounted: "/" unless bind-mounted
    point: Path
    fstype: str


def mounts(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """The mount table, oldest first."""
    table = []
    for line in mountinfo.read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        point = fields[4].encode().decode("unicode_escape")  # \040 stands for a space
        table.append(Mount(fields[3], Path(point), after.split()[0]))
    return table


def mount_of(path: Path, table: list[Mount]) -> Mount:
    """The mount that holds `path`: the longest mount point above it, the newest of equals."""
    above = [m for m in table if path == m.point or m.point in path.parents]
    return max(reversed(above), key=lambda m: len(m.point.parts))


def find_cgroup_root(table: list[Mount] | None = None) -> Path:
    """The host's root of cgroup v2; raise EnvironmentUnusable if it is not visible here.

    A cgroup2 mount whose root is not "/" shows a subtree (a container's view): hooks
    there would miss every other program of the node (F49).
    """
    found = [m for m in table or mounts() if m.fstype == "cgroup2"]
    if not found:
        raise EnvironmentUnusable(
            "no cgroup v2 is mounted",
            remedy="mount it: mkdir -p /run/vipbee/cgroup2 && "
            "mount -t cgroup2 none /run/vipbee/cgroup2",
        )
    for mount in found:
        if mount.root == "/":
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
