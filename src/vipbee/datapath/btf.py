# SPDX-License-Identifier: Apache-2.0
"""What the object's BTF says: structs with their members, enums; so that abi.h says it once.

Must not import NumPy: the process that loads does without. dtypes are in layouts.py. Needs no
privilege.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vipbee.datapath.libbpf import Libbpf, libbpf
from vipbee.errors import EnvironmentUnusable

OBJECT_PATH = Path(__file__).resolve().parent.parent / "_obj" / "vipbee.bpf.o"

# kinds of BTF types, as in linux/btf.h
INT, ARRAY, STRUCT, UNION, ENUM = 1, 3, 4, 5, 6
TYPEDEF, VOLATILE, CONST, VAR = 8, 9, 10, 14


class Member(NamedTuple):
    name: str
    type_id: int
    offset: int  # bytes


@dataclass(frozen=True, slots=True)
class BtfType:
    pointer: int
    name: str
    kind: int
    vlen: int
    size_or_type: int

    def payload(self, size: int) -> bytes:
        """`size` bytes that follow the 12-byte struct btf_type."""
        return c.string_at(self.pointer + 12, size)


class Btf:
    """A parsed BTF blob, which must outlive this."""

    def __init__(self, lib: Libbpf, pointer: int) -> None:
        self._lib = lib
        self._pointer = pointer

    def type(self, type_id: int) -> BtfType:
        pointer = self._lib.btf__type_by_id(self._pointer, type_id)
        name_offset, info, size = struct.unpack("=III", c.string_at(pointer, 12))
        return BtfType(pointer, self._name(name_offset), (info >> 24) & 0x1F, info & 0xFFFF, size)

    def types(self) -> Iterator[tuple[int, BtfType]]:
        for type_id in range(1, self._lib.btf__type_cnt(self._pointer)):
            yield type_id, self.type(type_id)

    def members(self, entry: BtfType) -> list[Member]:
        """Of a struct or union; TypeError for bitfields."""
        found = []
        for name_offset, type_id, bit_offset in struct.iter_unpack(
            "=III", entry.payload(12 * entry.vlen)
        ):
            if bit_offset % 8 or bit_offset >> 24:
                raise TypeError(f"struct {entry.name} has bitfields")
            found.append(Member(self._name(name_offset), type_id, bit_offset // 8))
        return found

    def integers(self, name: str) -> dict[str, tuple[int, int]]:
        """Of a struct: {member: (offset, size)} in bytes, native order; padding is left out."""
        entry = next(t for _, t in self.types() if t.kind == STRUCT and t.name == name)
        return {
            member.name: (member.offset, self._integer_size(member))
            for member in self.members(entry)
            if member.name != "pad"
        }

    def enums(self) -> dict[str, dict[str, int]]:
        """Every named enum: {enum name: {value name: value}}."""
        found = {}
        for _, entry in self.types():
            if entry.kind == ENUM and entry.name:
                pairs = struct.iter_unpack("=Ii", entry.payload(8 * entry.vlen))
                found[entry.name] = {self._name(offset): value for offset, value in pairs}
        return found

    def _integer_size(self, member: Member) -> int:
        entry = self.type(member.type_id)
        while entry.kind == TYPEDEF:
            entry = self.type(entry.size_or_type)
        if entry.kind != INT:
            raise TypeError(f"{member.name} is no integer")
        return entry.size_or_type

    def _name(self, offset: int) -> str:
        name: bytes = self._lib.btf__name_by_offset(self._pointer, offset)
        return name.decode()


@contextlib.contextmanager
def open_btf(path: Path = OBJECT_PATH) -> Iterator[Btf]:
    """Parse the BTF of an object file; raise EnvironmentUnusable if it is not built."""
    lib = libbpf()
    pointer = lib.btf__parse(bytes(path), None)
    if not pointer:
        raise EnvironmentUnusable(
            f"the datapath object {path.name} cannot be read", remedy="run `make build`"
        )
    try:
        yield Btf(lib, pointer)
    finally:
        lib.btf__free(pointer)
