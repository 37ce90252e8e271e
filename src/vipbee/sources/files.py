# SPDX-License-Identifier: Apache-2.0
"""The files a source reads: state files, a kubeconfig and what it names.

Through this, because the agent may have no right to read what root may: then somebody
with the right opens it (vipbee.privileged). Every method raises OSError.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Protocol

PathLike = str | Path
STATE_SUFFIXES = (".yaml", ".yml", ".json")


class FileState(NamedTuple):
    """What differs between two contents of one name, and what kind of file it is."""

    mode: int
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # also moves when somebody sets mtime back

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        return cls(
            status.st_mode,
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )


class Files(Protocol):
    def state(self, path: PathLike) -> FileState:
        """As stat(2): of what a link leads to."""

    def names(self, directory: PathLike) -> list[str]:
        """The state files in a directory: *.yaml, *.yml and *.json, hidden ones not."""

    def open(self, path: PathLike) -> int:
        """An fd for reading; does not wait for the writer of a FIFO."""


class OwnRights:
    """`Files` as this process itself may."""

    def state(self, path: PathLike) -> FileState:
        return FileState.of(os.stat(path))

    def names(self, directory: PathLike) -> list[str]:
        with os.scandir(directory) as entries:
            return [e.name for e in entries if is_state_file(e.name) and not e.is_dir()]

    def open(self, path: PathLike) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


OWN_RIGHTS = OwnRights()


def is_state_file(name: str) -> bool:
    """Whether a name in a directory of state files is that of one."""
    return name.endswith(STATE_SUFFIXES) and not name.startswith(".") and "/" not in name


def read_file(files: Files, path: PathLike, at_most: int = -1) -> bytes:
    """Content of a file, or the first `at_most` bytes of it."""
    with open(files.open(path), "rb") as opened:
        return opened.read(at_most)
