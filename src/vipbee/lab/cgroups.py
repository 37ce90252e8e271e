# SPDX-License-Identifier: Apache-2.0
"""cgroup v2 directories: find the hierarchy, make, kill what is inside, remove.

The cgroup is also the lab's register of processes: everything a lab starts is placed
below `vipbee-lab/<lab>`, so that nothing escapes `lab down`, not even a double fork
of a run that was killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from pathlib import Path

from vipbee.errors import EnvironmentUnusable
from vipbee.lab.errors import LabError

OWN_MOUNT = Path("/run/vipbee-lab/cgroup2")
PREFERRED = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
KILL_TIMEOUT_S = 10.0


def find_cgroup2() -> Path:
    """Return a mount of the cgroup2 hierarchy, mounting one if there is none.

    All mounts of cgroup2 show the same hierarchy, so any will do.
    """
    mounts = [
        fields[1]
        for fields in (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        if fields[2] == "cgroup2" and "rw" in fields[3].split(",")
    ]
    for path in (*PREFERRED, *mounts):
        if path in mounts:
            return Path(path)
    OWN_MOUNT.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(OWN_MOUNT), b"cgroup2", 0, None):
        raise EnvironmentUnusable(
            f"cgroup2 cannot be mounted ({os.strerror(ctypes.get_errno())})",
            remedy="run as root on a kernel with CONFIG_CGROUPS",
        )
    return OWN_MOUNT


def processes(cgroup: Path) -> list[int]:
    """Pids directly in `cgroup`; empty if it does not exist."""
    try:
        return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
    except (FileNotFoundError, OSError):
        return []


def kill(cgroup: Path) -> None:
    """SIGKILL everything in the subtree and wait until it is empty."""
    _kill_all(cgroup)
    _wait_empty(cgroup)


def remove(cgroup: Path) -> None:
    """Remove an empty subtree."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(directory)


def _kill_all(cgroup: Path) -> None:
    try:
        (cgroup / "cgroup.kill").write_text("1")
        return
    except FileNotFoundError:  # kernel < 5.14
        pass
    for directory, _, _ in os.walk(cgroup):
        for pid in processes(Path(directory)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _wait_empty(cgroup: Path) -> None:
    """Wait on cgroup.events, which wakes pollers when `populated` changes."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    with (cgroup / "cgroup.events").open() as events:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        while True:
            events.seek(0)
            if "populated 0" in events.read():
                return
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LabError(f"processes in {cgroup} do not end")
            poller.poll(min(left_s, 0.2) * 1000)
            _kill_all(cgroup)
