# SPDX-License-Identifier: Apache-2.0
"""Somebody unmounts the bpffs while we run: what was pinned there is pinned again (F50).

umount -l      the file system lives on, behind the fd that holds the lock, and with it
               every pin, every link, every hook: nobody notices
without this   the next agent finds no pins and makes empty tables, and when the last fd
               is closed all hooks are gone
"""

from __future__ import annotations

import os
from pathlib import Path

from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import pins
from vipbee.datapath.pins import KINDS, QDISCS, PinDirectory


def keep_pinned(bpf_root: Path, lock: int) -> int:
    """Bring all pins to where `bpf_root` is now; returns the fd that holds the lock there.

    `lock` is the fd that `pins.exclusive` gave, or this did. Raises EnvironmentUnusable if no
    bpffs can be mounted, or if another process was there first.
    """
    if pins.is_at(bpf_root, lock):
        return lock
    old = PinDirectory(Path(f"/proc/self/fd/{lock}") / LAYOUT_VERSION)
    pins.prepare_root(bpf_root)
    new_lock = pins.lock(bpf_root)
    if old.path.is_dir() and pins.open_for_reading(bpf_root) is None:
        with pins.creating(bpf_root) as fresh:
            _copy(old, fresh)
        _empty(old)
    return new_lock


def _copy(old: PinDirectory, fresh: PinDirectory) -> None:
    for kind in KINDS:
        for name in old.names(kind):
            fd = old.get(kind, name)
            if fd is not None:
                fresh.put(kind, name, fd)
                os.close(fd)
    for name in old.notes(QDISCS):
        fresh.note(QDISCS, name)


def _empty(old: PinDirectory) -> None:
    """Or a link that is unpinned later would be attached for as long as the old fd is open."""
    for kind in KINDS:
        for name in old.names(kind):
            old.remove(kind, name)
