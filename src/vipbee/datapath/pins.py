# SPDX-License-Identifier: Apache-2.0
"""The pin directory: what the kernel keeps for us while no process runs.

    <bpf-root>/               0700, flock()ed by whoever writes
    └── v1/                   abi.LAYOUT_VERSION; appears complete, by rename
        ├── maps/<name>       + maps/.rodata: the configuration in force
        ├── programs/<name>
        ├── links/<program name>, links/tc-<ifindex>-<direction>
        └── qdiscs/<note>, sysctls/<note>     directories, no pins: what we made or set

Must not interpret what is pinned. bpffs knows neither regular files nor exchange
renames, so replacing a pin is: pin beside it, rename over it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import syscall
from vipbee.datapath.mounts import ensure_bpffs
from vipbee.errors import EnvironmentUnusable

KINDS = ("maps", "programs", "links")
QDISCS = "qdiscs"
_UNFINISHED = "new"  # prefix of directories and pins under construction (bpffs forbids dots)
_KERNELS_OWN = {"maps.debug", "progs.debug"}  # in the root of each mounted bpffs
_LAYOUT = re.compile(rf"(?:{_UNFINISHED}-)?v[0-9]+", re.ASCII)


class Pinned(Protocol):
    """Where pinned objects are had from: the directory itself, or who may open it for us."""

    def get(self, kind: str, name: str) -> int | None:
        """A new fd for the pinned object, or None."""


class PinDirectory:
    """One layout version's pins: `get`, `put`, `names`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, kind: str, name: str, *, read_only: bool = False) -> int | None:
        """A new fd for the pinned object, or None. `read_only` is for maps."""
        try:
            return syscall.obj_get(str(self._pin(kind, name)), read_only=read_only)
        except FileNotFoundError:
            return None

    def put(self, kind: str, name: str, fd: int) -> None:
        """Pin `fd`, replacing what had the name; at no moment is there nothing."""
        target = self._pin(kind, name)
        beside = target.with_name(f"{_UNFINISHED}-{target.name}")
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        syscall.obj_pin(fd, str(beside))
        beside.rename(target)

    def names(self, kind: str) -> list[str]:
        place = self.path / kind
        if not place.is_dir():  # of a cleanup that was killed
            return []
        entries = sorted(p.name for p in place.iterdir())
        return [n for n in entries if not n.startswith(_UNFINISHED)]

    def complete(self) -> None:
        """Make the directories a cleanup that was killed had already removed."""
        for kind in KINDS:
            (self.path / kind).mkdir(mode=0o700, exist_ok=True)

    def remove(self, kind: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._pin(kind, name).unlink()

    def note(self, kind: str, name: str) -> None:
        """Remember a name: an empty directory, since bpffs has no files."""
        (self.path / kind / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def notes(self, kind: str) -> list[str]:
        place = self.path / kind
        return sorted(p.name for p in place.iterdir()) if place.is_dir() else []

    def forget(self, kind: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / kind / name).rmdir()

    def _pin(self, kind: str, name: str) -> Path:
        return self.path / kind / name.lstrip(".")


def open_for_reading(bpf_root: Path) -> PinDirectory | None:
    """The current layout's pins, without lock or side effect; None if there are none."""
    path = bpf_root / LAYOUT_VERSION
    return PinDirectory(path) if path.is_dir() else None


def other_layouts(bpf_root: Path) -> list[str]:
    """Layout versions pinned here that this version does not read."""
    layouts = [n for n in _names(bpf_root) if _LAYOUT.fullmatch(n)]
    return [n for n in layouts if n != LAYOUT_VERSION and not n.startswith(_UNFINISHED)]


def refuse_foreign(bpf_root: Path) -> None:
    """Raise EnvironmentUnusable if something is in the directory that vipbee did not make."""
    for name in _names(bpf_root):
        if not _LAYOUT.fullmatch(name):
            raise EnvironmentUnusable(
                f"{bpf_root} holds {name}, which vipbee did not make",
                remedy="name another directory with --bpf-root",
            )


def _names(bpf_root: Path) -> list[str]:
    return sorted(set(os.listdir(bpf_root)) - _KERNELS_OWN) if bpf_root.is_dir() else []


def prepare_root(bpf_root: Path) -> None:
    """Mount bpffs if needed, create the directory 0700, refuse one that is not ours (F51)."""
    ensure_bpffs(bpf_root)
    bpf_root.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = bpf_root.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise EnvironmentUnusable(
            f"{bpf_root} is a link or belongs to another user",
            remedy="remove it, or choose another directory with --bpf-root",
        )
    refuse_foreign(bpf_root)
    bpf_root.chmod(0o700)


@contextlib.contextmanager
def exclusive(bpf_root: Path, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold the only right to write below `bpf_root`; dies with the process (F54).

    Yields the fd that holds it.
    """
    fd = lock(bpf_root, wait_s=wait_s)
    try:
        yield fd
    finally:
        os.close(fd)


def lock(bpf_root: Path, *, wait_s: float = 0.0) -> int:
    """An fd of the directory, which holds that right for as long as it is open somewhere."""
    fd = os.open(bpf_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as on_error:
        on_error.callback(os.close, fd)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise EnvironmentUnusable(
                        f"another vipbee process holds {bpf_root}",
                        remedy="stop it first, or choose another directory with --bpf-root",
                    ) from None
                time.sleep(0.05)
        if not is_at(bpf_root, fd):  # a cleanup held the lock that we waited for
            raise EnvironmentUnusable(f"{bpf_root} was removed meanwhile", remedy="start again")
        on_error.pop_all()
    return fd


def is_at(path: Path, fd: int) -> bool:
    """Whether `fd` is of what is there now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def is_held(bpf_root: Path) -> bool:
    """Whether a process (the agent) holds the lock."""
    try:
        with exclusive(bpf_root):
            return False
    except EnvironmentUnusable:
        return True


@contextlib.contextmanager
def creating(bpf_root: Path) -> Iterator[PinDirectory]:
    """A new layout directory that gets its name only if the block succeeds.

    The caller holds `exclusive`. A killed run leaves only a `new-…` directory behind,
    which `remove_unfinished` takes away.
    """
    beside = bpf_root / f"{_UNFINISHED}-{LAYOUT_VERSION}"
    for kind in KINDS:
        (beside / kind).mkdir(parents=True, mode=0o700)
    try:
        yield PinDirectory(beside)
    except BaseException:
        shutil.rmtree(beside)
        raise
    beside.rename(bpf_root / LAYOUT_VERSION)


def remove_unfinished(bpf_root: Path) -> None:
    """Take away what a killed run had not finished; the caller holds `exclusive`."""
    for path in bpf_root.rglob(f"{_UNFINISHED}-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def remove_everything(bpf_root: Path) -> list[str]:
    """Unpin all layouts below `bpf_root`, which detaches and frees; returns the paths.

    Links go first, so that no program runs with half of its maps gone. A bpffs that was
    mounted on `bpf_root` itself stays mounted.
    """
    removed = []
    for layout in sorted(p for p in bpf_root.iterdir() if p.is_dir()):
        for kind in reversed(KINDS):
            if not (layout / kind).is_dir():
                continue
            for pin in sorted((layout / kind).iterdir()):
                pin.unlink()
                removed.append(str(pin.relative_to(bpf_root)))
        shutil.rmtree(layout)
    if not bpf_root.is_mount():
        bpf_root.rmdir()
    return removed
