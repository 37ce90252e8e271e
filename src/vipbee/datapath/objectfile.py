# SPDX-License-Identifier: Apache-2.0
"""The compiled object between open and load: choose programs, sizes, configuration.

    with ObjectFile.open() as datapath_object:
        datapath_object.configure(node_netns_cookie=…)
        datapath_object.set_max_entries({"frontends": 65536})
        datapath_object.load()
        fd = datapath_object.program_fd("vipbee_connect4")

File descriptors belong to the object: duplicate or pin what must outlive `close()`.
"""

from __future__ import annotations

import ctypes as c
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from vipbee.datapath.btf import OBJECT_PATH, Btf
from vipbee.datapath.libbpf import Libbpf, libbpf
from vipbee.errors import EnvironmentUnusable, KernelError

RODATA = ".rodata"
"""Our name for the map libbpf calls `<object>.rodata`; holds `struct config`."""


class ObjectFile:
    """One opened object. Use `ObjectFile.open`."""

    def __init__(self, lib: Libbpf, pointer: int) -> None:
        self._lib = lib
        self._pointer: int | None = pointer
        self._maps = {
            RODATA if name.endswith(RODATA) else name: handle
            for name, handle in self._walk(lib.bpf_object__next_map, lib.bpf_map__name)
        }
        self._programs = dict(self._walk(lib.bpf_object__next_program, lib.bpf_program__name))

    @classmethod
    def open(cls, path: Path = OBJECT_PATH) -> ObjectFile:
        lib = libbpf()
        lib.log.clear()
        pointer = lib.bpf_object__open_file(bytes(path), None)
        if not pointer:
            raise EnvironmentUnusable(
                f"the datapath object {path.name} cannot be read", remedy="run `make build`"
            )
        return cls(lib, pointer)

    def _walk(
        self, following: c._NamedFuncPointer, name: c._NamedFuncPointer
    ) -> Iterable[tuple[str, int]]:
        handle = following(self._pointer, None)
        while handle:
            yield name(handle).decode(), handle
            handle = following(self._pointer, handle)

    def __enter__(self) -> ObjectFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free everything; unpinned programs and maps disappear."""
        if self._pointer is not None:
            self._lib.bpf_object__close(self._pointer)
            self._pointer = None

    @property
    def map_names(self) -> tuple[str, ...]:
        return tuple(self._maps)

    @property
    def program_names(self) -> tuple[str, ...]:
        return tuple(self._programs)

    def configure(self, **values: int) -> None:
        """Set members of `struct config`; before load. OverflowError if one does not fit."""
        # `config` is the only object in .rodata; a test asserts it
        start, _ = self._rodata()
        members = Btf(self._lib, self._lib.bpf_object__btf(self._pointer)).integers("config")
        for name, value in values.items():
            offset, size = members[name]
            c.memmove(start + offset, int(value).to_bytes(size, sys.byteorder), size)

    def rodata_bytes(self) -> bytes:
        """The constants this object will be loaded with, to compare with a pinned map."""
        return c.string_at(*self._rodata())

    def _rodata(self) -> tuple[int, int]:
        """Address and size."""
        size = c.c_size_t()
        start = self._lib.bpf_map__initial_value(self._maps[RODATA], c.byref(size))
        return start, size.value

    def set_max_entries(self, sizes: Mapping[str, int]) -> None:
        for name, entries in sizes.items():
            self._check(self._lib.bpf_map__set_max_entries(self._maps[name], entries), name)

    def skip_map(self, name: str) -> None:
        """Do not create a map; it is not among `map_names` then. No loaded program may use it."""
        self._check(self._lib.bpf_map__set_autocreate(self._maps.pop(name), False), name)

    def keep_programs(self, names: Iterable[str]) -> None:
        """Load these programs only."""
        wanted = set(names)
        for name, handle in self._programs.items():
            self._check(self._lib.bpf_program__set_autoload(handle, name in wanted), name)

    def map_shape(self, name: str) -> tuple[int, int, int]:
        """(type, key size, value size) as compiled: what a pinned map must equal."""
        handle = self._maps[name]
        return (
            self._lib.bpf_map__type(handle),
            self._lib.bpf_map__key_size(handle),
            self._lib.bpf_map__value_size(handle),
        )

    def reuse_map(self, name: str, fd: int) -> None:
        """Use an existing map (its size too); libbpf keeps its own duplicate of `fd`."""
        self._check(self._lib.bpf_map__reuse_fd(self._maps[name], fd), name)

    def load(self) -> None:
        """Create maps, verify programs; raise KernelError with the verifier's last words."""
        result = self._lib.bpf_object__load(self._pointer)
        if result:
            log = "".join(self._lib.log).strip()
            raise KernelError("the kernel refused the datapath object", -result, log[-4000:])

    def map_fd(self, name: str) -> int:
        return int(self._lib.bpf_map__fd(self._maps[name]))

    def program_fd(self, name: str) -> int:
        return int(self._lib.bpf_program__fd(self._programs[name]))

    def _check(self, result: int, name: str) -> None:
        if result:
            raise KernelError(f"libbpf refused a setting of {name}", -result, os.strerror(-result))
