# SPDX-License-Identifier: Apache-2.0
"""A memory cgroup of a test's own: version 2, or 1 where the machine has that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vipbee.datapath.mounts import mounts


@contextlib.contextmanager
def limited_memory(name: str, limit_bytes: int) -> Iterator[Callable[[], None]]:
    """Yields what puts the calling process under the limit; nobody may be in it at the end."""
    parent, limit = _find()
    cgroup = parent / f"{name}-memory"
    cgroup.mkdir()
    try:
        (cgroup / limit).write_text(str(limit_bytes))

        def enter() -> None:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

        yield enter
    finally:
        cgroup.rmdir()


def _find() -> tuple[Path, str]:
    for mount in mounts():
        if mount.fstype == "cgroup" and (mount.point / "memory.limit_in_bytes").exists():
            return mount.point, "memory.limit_in_bytes"
        controllers = mount.point / "cgroup.subtree_control"
        if mount.fstype == "cgroup2" and "memory" in controllers.read_text().split():
            return mount.point, "memory.max"
    pytest.skip("no memory controller for cgroups right below a root")
