# SPDX-License-Identifier: Apache-2.0
"""The lock on the pin directory, on any file system. What is pinned: tests/bpf/test_loader.py."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import pins
from vipbee.errors import EnvironmentUnusable


def test_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """F54"""
    with (
        pins.exclusive(tmp_path),
        pytest.raises(EnvironmentUnusable, match="another vipbee process holds"),
        pins.exclusive(tmp_path),
    ):
        pass

    with pins.exclusive(tmp_path):
        assert pins.is_held(tmp_path)
    assert not pins.is_held(tmp_path)


@pytest.mark.parametrize("made_again", [False, True])
def test_lock_on_a_directory_that_was_removed_is_worth_nothing(
    tmp_path: Path, made_again: bool
) -> None:
    """F54: an agent waits while a cleanup removes the directory, another agent makes a new one."""
    root = tmp_path / "vipbee"
    root.mkdir()
    refusals: list[str] = []

    def wait_for_it() -> None:
        try:
            with pins.exclusive(root, wait_s=30):
                pass
        except EnvironmentUnusable as error:
            refusals.append(str(error))

    waiting = threading.Thread(target=wait_for_it)
    held = os.open(root, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    waiting.start()
    eventually(lambda: _opened_by_us(root) == 2)
    root.rmdir()
    if made_again:
        root.mkdir()
    os.close(held)
    waiting.join()

    assert refusals == [f"{root} was removed meanwhile: start again"]


def test_only_directories_named_like_layouts_are_layouts(tmp_path: Path) -> None:
    for name in ("v0", LAYOUT_VERSION, f"new-{LAYOUT_VERSION}", "v2", "vat", "tc"):
        (tmp_path / name).mkdir()

    assert pins.other_layouts(tmp_path) == ["v0", "v2"]
    with pytest.raises(EnvironmentUnusable, match="holds tc, which vipbee did not make"):
        pins.refuse_foreign(tmp_path)


def _opened_by_us(path: Path) -> int:
    """How many file descriptors of this process are that directory."""
    return sum(
        os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in os.listdir("/proc/self/fd")
    )
