# SPDX-License-Identifier: Apache-2.0
"""What is attached to the cgroup right now. Reads pins only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from vipbee.datapath import syscall
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.programs import SOCKET_PROGRAMS


@dataclass(frozen=True, slots=True)
class Hook:
    name: str
    program_id: int  # 0: no link is pinned
    tag: str
    cgroup_id: int  # 0: the link lost its cgroup and does nothing any more (F48)

    @property
    def is_attached(self) -> bool:
        return self.cgroup_id != 0


def read_hooks(directory: PinDirectory) -> list[Hook]:
    """Every socket hook, attached or not; empty if the socket layer is switched off."""
    pinned = set(directory.names("links")) & set(SOCKET_PROGRAMS)
    return [_read_hook(directory, name) for name in SOCKET_PROGRAMS] if pinned else []


def _read_hook(directory: PinDirectory, name: str) -> Hook:
    with _opened(directory, "links", name) as link_fd:
        if link_fd is None:
            return Hook(name, 0, "", 0)
        link = syscall.link_info(link_fd)
    with _opened(directory, "programs", name) as program_fd:
        info = syscall.program_info(program_fd) if program_fd is not None else None
    # the link is the truth; a killed agent may not have pinned the program it put there
    tag = info.tag if info is not None and info.id == link.program_id else ""
    return Hook(name, link.program_id, tag, link.cgroup_id)


def is_intact(directory: PinDirectory, map_ids: Mapping[str, int], *, socket_lb: bool) -> bool:
    """Whether every hook runs its pinned program and every pin is the map that is open (F57).

    Cheap (30 µs a hook), so it can be asked every few seconds.
    """
    for name, map_id in map_ids.items():
        with _opened(directory, "maps", name) as fd:
            if fd is None or syscall.map_info(fd).id != map_id:
                return False
    if not socket_lb:
        return True
    return all(
        hook.is_attached and hook.tag
        for hook in map(partial(_read_hook, directory), SOCKET_PROGRAMS)
    )


@contextlib.contextmanager
def _opened(directory: PinDirectory, kind: str, name: str) -> Iterator[int | None]:
    fd = directory.get(kind, name)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)
