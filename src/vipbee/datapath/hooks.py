# SPDX-License-Identifier: Apache-2.0
"""What this kernel makes do without, and where cgroups are. Reads pins only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vipbee.abi import Layouts
from vipbee.datapath import syscall
from vipbee.datapath.features import SIZED_MAPS
from vipbee.datapath.mounts import mounts
from vipbee.datapath.objectfile import RODATA, ObjectFile
from vipbee.datapath.pins import PinDirectory, Pinned
from vipbee.datapath.programs import RELEASE_ITERATOR, SOCKET_PROGRAMS, STALE_ITERATOR
from vipbee.errors import VipbeeError


def shipped_tags() -> Mapping[str, str]:
    """Tags of the socket programs this version ships; empty if they cannot be loaded here.

    The kernel computes tags at load, so this loads them with tiny maps (about 0.1 s).
    """
    try:
        with ObjectFile.open() as trial:
            trial.set_max_entries(dict.fromkeys(SIZED_MAPS, 1))
            trial.keep_programs(SOCKET_PROGRAMS)
            trial.load()
            return {
                name: syscall.program_info(trial.program_fd(name)).tag for name in SOCKET_PROGRAMS
            }
    except (VipbeeError, OSError):
        return {}


def cgroup_paths(ids: set[int]) -> dict[int, Path]:
    """Paths of these cgroups, by id; a cgroup outside the mounts that are visible is missing."""
    found: dict[int, Path] = {}
    wanted = ids - {0}
    for mount in mounts():
        if mount.fstype != "cgroup2" or not wanted - found.keys():
            continue
        for directory, _, _ in os.walk(mount.point):  # top down: the root is met first
            with contextlib.suppress(OSError):
                inode = os.stat(directory).st_ino
                if inode in wanted:
                    found.setdefault(inode, Path(directory))
            if not wanted - found.keys():
                break
    return found


def degradations(directory: PinDirectory, layouts: Layouts) -> list[str]:
    """What the pinned datapath does without, one sentence each."""
    config = read_config(directory, layouts)
    if config is None:
        return ["the configuration's pin is missing: restart the agent to repair it"]
    programs = directory.names("programs")
    found = []
    if not config["has_set_retval"]:
        found.append("connections without endpoint fail with EPERM instead of ECONNREFUSED")
    if not config["has_socket_storage"]:
        found.append("what sockets dialled is kept in a table that can overflow")
    if not config["node_netns_cookie"]:
        found.append("the node's network namespace is taken to be the initial one")
    if not {STALE_ITERATOR, RELEASE_ITERATOR} & set(programs):
        found.append("connected UDP sockets keep a backend that is gone until they are reopened")
    elif STALE_ITERATOR not in programs:
        found.append(
            "UDP sockets of backends that are gone are looked for in one pod after another"
        )
    elif RELEASE_ITERATOR not in programs:
        found.append("UDP sockets of backends that are gone are released one by one, by sock_diag")
    return found


def read_config(directory: Pinned, layouts: Layouts) -> np.void | None:
    """The constants in force (struct config); None if their pin is missing."""
    config = np.zeros(1, dtype=layouts["config"])
    with _opened(directory, "maps", RODATA) as fd:
        if fd is None or syscall.map_info(fd).value_size != config.itemsize:
            return None
        syscall.map_lookup(fd, np.zeros(1, dtype=np.uint32), config)
    record: np.void = config[0]
    return record


@contextlib.contextmanager
def _opened(directory: Pinned, kind: str, name: str) -> Iterator[int | None]:
    fd = directory.get(kind, name)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)
