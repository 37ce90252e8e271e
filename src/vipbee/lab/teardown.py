# SPDX-License-Identifier: Apache-2.0
"""Remove a lab by the names its parts must have, so that no record is needed.

A run killed at any moment leaves a subset of: processes in the lab's cgroup, pins,
namespaces, the cgroup, the run directory. Removing is idempotent and in an order in
which nothing can come back: first the processes, last what names the lab.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path

from vipbee.errors import EnvironmentUnusable
from vipbee.lab import cgroups
from vipbee.lab.blueprint import CGROUP_ROOT, lab_cgroup, namespace_prefix
from vipbee.lab.namespaces import list_namespaces, remove_namespace

RUN_ROOT = Path("/run/vipbee-lab")
BPFFS = Path("/sys/fs/bpf")
PIN_PREFIX = "vipbee-lab-"


def run_directory(lab: str) -> Path:
    return RUN_ROOT / lab


def pin_directory(lab: str) -> Path:
    return BPFFS / f"{PIN_PREFIX}{lab}"


def require_root() -> None:
    if os.geteuid() != 0:
        raise EnvironmentUnusable("labs are made of network namespaces", remedy="run as root")


def mount_bpffs() -> None:
    """Mount bpffs at its usual place unless it is there; agents pin below it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if any(fields[1] == str(BPFFS) and fields[2] == "bpf" for fields in mounts):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(BPFFS), b"bpf", 0, None):
        raise EnvironmentUnusable(
            f"bpffs cannot be mounted ({os.strerror(ctypes.get_errno())})",
            remedy=f"mount -t bpf bpf {BPFFS}",
        )


def list_labs() -> list[str]:
    """Names of all labs of which anything is left.

    Namespaces are not asked: a lab's run directory is made before its first namespace
    and removed after the last, and somebody else's may be called `vb-…` too.
    """
    found = {path.name for path in _directories(RUN_ROOT) if path != cgroups.OWN_MOUNT}
    found |= {path.name for path in _directories(cgroups.find_cgroup2() / CGROUP_ROOT)}
    found |= {
        path.name.removeprefix(PIN_PREFIX)
        for path in _directories(BPFFS)
        if path.name.startswith(PIN_PREFIX)
    }
    return sorted(found)


def tear_down(lab: str) -> bool:
    """Remove everything of `lab`; False if there was nothing."""
    require_root()
    cgroup = cgroups.find_cgroup2() / lab_cgroup(lab)
    namespaces = list_namespaces(namespace_prefix(lab))
    directories = [cgroup, pin_directory(lab), run_directory(lab)]
    existed = bool(namespaces) or any(path.exists() for path in directories)

    if cgroup.is_dir():
        cgroups.kill(cgroup)
    shutil.rmtree(pin_directory(lab), ignore_errors=True)
    for name in namespaces:
        remove_namespace(name)
    if cgroup.is_dir():
        cgroups.remove(cgroup)
    shutil.rmtree(run_directory(lab), ignore_errors=True)
    _remove_if_empty(cgroup.parent, RUN_ROOT)
    return existed


def make_directory(path: Path) -> None:
    """Make `path` and its parents, even while another lab's end removes an empty parent."""
    while not path.is_dir():
        with contextlib.suppress(FileNotFoundError):
            path.mkdir(parents=True, exist_ok=True)


def _directories(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if child.is_dir()] if path.is_dir() else []


def _remove_if_empty(*directories: Path) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:  # not empty, not there, or a mount point
            continue
