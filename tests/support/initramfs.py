# SPDX-License-Identifier: Apache-2.0
"""An initramfs written by hand: Python as PID 1, with this project and what it needs.

No busybox, cpio or kmod: the archive format ("newc", Documentation/driver-api/
early-userspace/buffer-format.rst) is a header and the bytes. It stays uncompressed,
because decompressing under software emulation takes longer than reading.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

GUEST_SITE = "/guest/site"
"""Third-party packages in the guest."""
GUEST_SOURCE = "/guest/src"
"""This project's package in the guest."""
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data"}
    | {"tests", "test", "tkinter", "turtledemo", "f2py"}
)


class Initramfs:
    """Appends entries to a newc archive; parents are made, repeats are ignored."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._inode = 0
        self._seen: set[str] = set()
        self._programs: list[Path] = []

    def add_directory(self, path: str) -> None:
        path = path.rstrip("/")
        if path and path not in self._seen:
            self.add_directory(os.path.dirname(path))
            self._entry(path, stat.S_IFDIR | 0o755)

    def add_device(self, path: str, major: int, minor: int) -> None:
        self.add_directory(os.path.dirname(path))
        self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def add_bytes(self, path: str, content: bytes, *, mode: int = 0o755, mtime: int = 0) -> None:
        self.add_directory(os.path.dirname(path))
        self._entry(path, stat.S_IFREG | mode, content, mtime=mtime)

    def add_file(self, source: Path, path: str | None = None) -> None:
        """Times are kept: Python compares them with the .pyc beside a source."""
        path = path or str(source)
        if path not in self._seen:
            status = source.stat()
            mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
            self.add_bytes(path, source.read_bytes(), mode=mode, mtime=mtime)

    def add_program(self, source: Path, path: str | None = None) -> None:
        """Add an executable or a shared library, and at the end all it is linked with."""
        self.add_file(source, path)
        self._programs.append(source)

    def add_tree(self, source: Path, path: str | None = None) -> None:
        """Add a folder of Python code, without tests."""
        for folder, children, files in os.walk(source):
            children[:] = sorted(set(children) - SKIPPED_FOLDERS)
            for name in sorted(files):
                file = Path(folder) / name
                if file.suffix != ".a" and "_tkinter" not in name and file.is_file():
                    target = f"{path or source}/{file.relative_to(source)}"
                    (self.add_program if ".so" in name else self.add_file)(file, target)

    def finish(self) -> None:
        for library in linked_libraries(self._programs):
            self.add_file(library)
        self._entry("TRAILER!!!", 0)

    def _entry(
        self,
        path: str,
        mode: int,
        content: bytes = b"",
        *,
        mtime: int = 0,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        self._inode += 1
        name = path.lstrip("/").encode() + b"\0"
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (self._inode, mode, 0, 0, 1, mtime, len(content), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        for part in (header, content):
            self._output.write(part + b"\0" * (-len(part) % 4))


def linked_libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """Yield each shared library of the system the programs need, once.

    Wheels find the libraries they bring by a path relative to their own; those come
    along with the rest of the wheel.
    """
    listing = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False
    ).stdout
    for path in dict.fromkeys(re.findall(r"(/\S+) \(0x", listing)):
        if "/site-packages/" not in path:
            yield Path(path)


def add_python(archive: Initramfs) -> str:
    """Add this interpreter with its standard library; return its path in the guest."""
    interpreter = Path(sys.executable).resolve()
    archive.add_program(interpreter)
    for name in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        library = Path(name)
        archive.add_tree(library)
    return str(interpreter)


def add_distributions(archive: Initramfs, roots: Iterable[str]) -> None:
    """Add the named distributions and all they require, without extras."""
    pending, seen = list(roots), set[str]()
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # required on other platforms or Python versions only
        pending += [
            re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            for requirement in distribution.requires or ()
            if "extra ==" not in requirement
        ]
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or SKIPPED_FOLDERS & set(file.parts) or not source.is_file():
                continue
            add = archive.add_program if ".so" in file.name else archive.add_file
            add(source, f"{GUEST_SITE}/{file}")


def add_modules(archive: Initramfs, modules: Path, names: Iterable[str]) -> list[str]:
    """Add kernel modules with their dependencies; return guest paths in loading order."""
    files = {file.name.split(".")[0].replace("-", "_"): file for file in modules.rglob("*.ko*")}
    order: dict[str, None] = {}

    def add(name: str) -> None:
        path = f"/modules/{name}.ko"
        if name not in files or path in order:
            return  # built in, or already there
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in depends[1].decode().split(",") if depends else ():
            add(needed.replace("-", "_"))
        archive.add_bytes(path, content)
        order[path] = None

    for name in names:
        add(name)
    return list(order)
