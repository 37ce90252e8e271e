# SPDX-License-Identifier: Apache-2.0
"""A bpffs that somebody unmounts, lazily, while its pins are in use: F50."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hooked import Hooked
from tests.support.one_service import all_ids, dial, program
from vipbee.datapath import pins
from vipbee.datapath.loader import load
from vipbee.datapath.pins import QDISCS
from vipbee.datapath.programs import SOCKET_PROGRAMS
from vipbee.datapath.unmounted import keep_pinned
from vipbee.errors import EnvironmentUnusable


@pytest.fixture
def mounted(bare: Hooked, tmp_path: Path) -> Iterator[Hooked]:
    """One Service, pinned in a bpffs of its own."""
    bare.bpf_root = tmp_path / "bpf"
    bare.load()
    bare.serve()
    program(bare)
    yield bare
    while bare.bpf_root.is_mount():
        unmount(bare.bpf_root)


@contextlib.contextmanager
def kept(hooked: Hooked, lock: int) -> Iterator[int]:
    fd = keep_pinned(hooked.bpf_root, lock)
    try:
        yield fd
    finally:
        os.close(fd)


def unmount(point: Path) -> None:
    subprocess.run(["umount", "-l", str(point)], check=True)


def test_what_was_pinned_is_pinned_again(mounted: Hooked) -> None:
    """F50: Maps, programs and links by id; the hooks never stop, and the next start adopts them."""
    before = all_ids(mounted.directory)
    mounted.directory.note(QDISCS, "1-2")
    with pins.exclusive(mounted.bpf_root) as lock:
        unmount(mounted.bpf_root)
        assert dial(mounted) == 0
        assert mounted.directory.names("links") == []

        with kept(mounted, lock) as new_lock:
            assert all_ids(mounted.directory) == before
            assert mounted.directory.notes(QDISCS) == ["1-2"]
            assert pins.is_at(mounted.bpf_root, new_lock)
            assert pins.is_held(mounted.bpf_root)
            assert load(mounted.request()).replaced == ()
            assert keep_pinned(mounted.bpf_root, new_lock) == new_lock  # nothing to do any more

    assert dial(mounted) == 0  # also when the old file system is gone for good


def test_a_link_that_is_unpinned_later_is_detached(mounted: Hooked) -> None:
    """It is pinned once, although the old file system lives as long as the lock's fd."""
    with pins.exclusive(mounted.bpf_root) as lock:
        unmount(mounted.bpf_root)
        with kept(mounted, lock):
            for name in SOCKET_PROGRAMS:
                mounted.directory.remove("links", name)

            assert dial(mounted) == errno.ENETUNREACH


def test_another_agent_that_was_there_first_is_left_alone(mounted: Hooked) -> None:
    with pins.exclusive(mounted.bpf_root) as lock:
        unmount(mounted.bpf_root)
        pins.prepare_root(mounted.bpf_root)
        with (
            pins.exclusive(mounted.bpf_root),
            pytest.raises(EnvironmentUnusable, match="another vipbee process holds"),
        ):
            keep_pinned(mounted.bpf_root, lock)

        assert dial(mounted) == 0


def test_a_root_that_somebody_removed_is_made_again(bare: Hooked) -> None:
    """F57: with all pins gone there is nothing to bring back, only the lock."""
    bare.load()
    with pins.exclusive(bare.bpf_root) as lock:
        pins.remove_everything(bare.bpf_root)

        with kept(bare, lock) as new_lock:
            loaded = load(bare.request())

            assert pins.is_at(bare.bpf_root, new_lock)
            assert not loaded.adopted
            assert set(loaded.directory.names("links")) == set(SOCKET_PROGRAMS)
