# SPDX-License-Identifier: Apache-2.0
"""Try every hook: load its program, attach it to an empty child cgroup, let go.

Never attaches to the cgroup it is given, so no program runs for another process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vipbee.datapath import syscall
from vipbee.datapath.features import SIZED_MAPS, Features
from vipbee.datapath.finding import Finding, Result, missing, reason_of, remedy_of
from vipbee.datapath.mounts import HOST_ROOT_INODE, find_cgroup_root, mount_of, mounts
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.programs import SOCKET_PROGRAMS
from vipbee.errors import KernelError, VipbeeError

_CHILD = "vipbee-check-"  # + pid: the cgroup programs are attached to


def probe_cgroup(given: Path | None) -> tuple[Finding, Path | None]:
    """The finding, and the directory if there is one."""
    what = "cgroup v2"
    if given is not None:
        if not given.is_dir() or mount_of(given.absolute(), mounts()).fstype != "cgroup2":
            problem = f"{given} is not a cgroup v2 directory"
            return missing(what, problem, "name one with --cgroup-root"), None
        if given.stat().st_ino != HOST_ROOT_INODE:
            used = f"{given}: only programs below it are served"
            return Finding(what, Result.WARNING, used), given
        return Finding(what, Result.OK, f"{given}, the host's root"), given
    try:
        found = find_cgroup_root()
    except VipbeeError as error:
        return missing(what, "the host's root is not visible", remedy_of(error)), None
    return Finding(what, Result.OK, f"{found}, the host's root"), found


def probe_hooks(cgroup_root: Path | None, features: Features) -> list[Finding]:
    """Load each program and attach it to an empty child cgroup of its own."""
    with contextlib.ExitStack() as stack:
        fd = None
        if cgroup_root is not None:
            fd = stack.enter_context(_child_cgroup(cgroup_root))
        return [_probe_hook(name, fd, features) for name in SOCKET_PROGRAMS]


def _probe_hook(name: str, cgroup_fd: int | None, features: Features) -> Finding:
    what = f"hook: {name.removeprefix('vipbee_')}"
    remedy = "use a kernel of 5.10 or newer with CONFIG_CGROUP_BPF=y"
    try:
        with ObjectFile.open() as trial:
            trial.set_max_entries(dict.fromkeys(SIZED_MAPS, 1))
            trial.configure(
                has_set_retval=features.set_retval, has_socket_storage=features.socket_storage
            )
            trial.keep_programs((name,))
            trial.load()
            if cgroup_fd is None:
                return Finding(what, Result.OK, "loads; where to attach is not known")
            program = trial.program_fd(name)
            # the link is not pinned: closing it detaches
            os.close(syscall.link_create_cgroup(program, cgroup_fd, syscall.ATTACH_TYPES[name]))
    except KernelError as error:
        return missing(what, reason_of(error), remedy)
    except OSError as error:
        return missing(what, f"attaching failed: {error.strerror}", remedy)
    return Finding(what, Result.OK, "attached by link")


def probe_helpers(features: Features) -> list[Finding]:
    """What is optional, and what is done instead."""
    rows = (
        (
            "bpf_set_retval",
            features.set_retval,
            "no endpoint: ECONNREFUSED at once",
            "no endpoint: EPERM at once",
        ),
        (
            "socket storage in hooks",
            features.socket_storage,
            "reverse state lives and dies with its socket",
            "reverse state in an LRU table by socket cookie",
        ),
        (
            "network namespace cookie",
            bool(netns_cookie()),
            "tells the node's own programs from pods'",
            "the initial namespace is taken for the node's",
        ),
        (
            "iterator over sockets",
            features.stale_iterator,
            "finds UDP sockets of withdrawn backends in all pods",
            "looks for UDP sockets of withdrawn backends in one pod after another"
            if features.release_iterator
            else "connected UDP sockets keep a withdrawn backend until reopened",
        ),
        (
            "bpf_sock_destroy",
            features.release_iterator,
            "releases such sockets in the kernel",
            "releases such sockets by sock_diag" if features.stale_iterator else "not used",
        ),
    )
    return [
        Finding(what, Result.OK if works else Result.FALLS_BACK, used if works else instead)
        for what, works, used, instead in rows
    ]


@contextlib.contextmanager
def _child_cgroup(root: Path) -> Iterator[int | None]:
    """An fd of a new empty cgroup below `root`; None if the tree cannot be written to."""
    for leftover in root.glob(f"{_CHILD}*"):  # of a run that was killed
        if not Path("/proc", leftover.name.removeprefix(_CHILD)).exists():
            with contextlib.suppress(OSError):
                leftover.rmdir()
    path = root / f"{_CHILD}{os.getpid()}"
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        yield None
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        path.rmdir()
