# SPDX-License-Identifier: Apache-2.0
"""NumPy dtypes and enum values from the object's BTF, so that abi.h is the only definition.

`__be16`/`__be32`/`__be64` typedefs become big-endian dtypes; `char[n]` becomes a
fixed-size byte string. Needs no privilege.
"""

from __future__ import annotations

import ctypes as c
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vipbee.abi import Layouts
from vipbee.datapath.libbpf import Libbpf, libbpf
from vipbee.errors import EnvironmentUnusable

OBJECT_PATH = Path(__file__).resolve().parent.parent / "_obj" / "vipbee.bpf.o"

# kinds of BTF types, as in linux/btf.h
_INT, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _VAR = 8, 9, 10, 14
_BIG_ENDIAN = {"__be16", "__be32", "__be64"}


@dataclass(frozen=True, slots=True)
class _Type:
    pointer: int
    name: str
    kind: int
    vlen: int
    size_or_type: int

    def payload(self, size: int) -> bytes:
        """`size` bytes that follow the 12-byte struct btf_type."""
        return c.string_at(self.pointer + 12, size)


class Btf:
    """A parsed BTF blob; free with `close()`."""

    def __init__(self, lib: Libbpf, pointer: int) -> None:
        self._lib = lib
        self._pointer = pointer

    def close(self) -> None:
        self._lib.btf__free(self._pointer)

    def _type(self, type_id: int) -> _Type:
        pointer = self._lib.btf__type_by_id(self._pointer, type_id)
        name_offset, info, size = struct.unpack("=III", c.string_at(pointer, 12))
        name = self._lib.btf__name_by_offset(self._pointer, name_offset).decode()
        return _Type(pointer, name, (info >> 24) & 0x1F, info & 0xFFFF, size)

    def _types(self) -> Iterator[tuple[int, _Type]]:
        for type_id in range(1, self._lib.btf__type_cnt(self._pointer)):
            yield type_id, self._type(type_id)

    def structs(self) -> dict[str, np.dtype]:
        """Every named struct that maps can hold, by name."""
        found = {}
        for type_id, entry in self._types():
            if entry.kind == _STRUCT and entry.name:
                try:
                    found[entry.name] = self.dtype(type_id)
                except TypeError:
                    continue  # pointers, bitfields: a kernel struct, not one of ours
        return found

    def enums(self) -> dict[str, dict[str, int]]:
        """Every named enum: {enum name: {value name: value}}."""
        found = {}
        for _, entry in self._types():
            if entry.kind == _ENUM and entry.name:
                pairs = struct.iter_unpack("=Ii", entry.payload(8 * entry.vlen))
                found[entry.name] = {
                    self._lib.btf__name_by_offset(self._pointer, offset).decode(): value
                    for offset, value in pairs
                }
        return found

    def dtype(self, type_id: int) -> np.dtype:
        """The dtype of one type; raise TypeError for what NumPy cannot express."""
        big_endian = False
        entry = self._type(type_id)
        while entry.kind in (_TYPEDEF, _VOLATILE, _CONST, _VAR):
            big_endian |= entry.kind == _TYPEDEF and entry.name in _BIG_ENDIAN
            entry = self._type(entry.size_or_type)
        if entry.kind == _INT:
            (encoding,) = struct.unpack("=I", entry.payload(4))
            signed = (encoding >> 24) & 1
            order = ">" if big_endian else "<"
            return np.dtype(f"{order}{'i' if signed else 'u'}{entry.size_or_type}")
        if entry.kind == _ENUM:
            return np.dtype(f"<u{entry.size_or_type}")
        if entry.kind == _ARRAY:
            element_id, _, count = struct.unpack("=III", entry.payload(12))
            if self._type(element_id).name == "char":
                return np.dtype(f"S{count}")
            return np.dtype((self.dtype(element_id), (count,)))
        if entry.kind in (_STRUCT, _UNION):
            return self._struct_dtype(entry)
        raise TypeError(f"BTF kind {entry.kind} has no dtype")

    def _struct_dtype(self, entry: _Type) -> np.dtype:
        names, formats, offsets = [], [], []
        for name_offset, member_type, bit_offset in struct.iter_unpack(
            "=III", entry.payload(12 * entry.vlen)
        ):
            if bit_offset % 8 or bit_offset >> 24:
                raise TypeError(f"struct {entry.name} has bitfields")
            names.append(self._lib.btf__name_by_offset(self._pointer, name_offset).decode())
            formats.append(self.dtype(member_type))
            offsets.append(bit_offset // 8)
        return np.dtype(
            {
                "names": names,
                "formats": formats,
                "offsets": offsets,
                "itemsize": entry.size_or_type,
            }
        )


def open_btf(path: Path = OBJECT_PATH) -> Btf:
    """Parse the BTF of an object file; raise EnvironmentUnusable if it is not built."""
    lib = libbpf()
    pointer = lib.btf__parse(bytes(path), None)
    if not pointer:
        raise EnvironmentUnusable(
            f"the datapath object {path.name} cannot be read", remedy="run `make build`"
        )
    return Btf(lib, pointer)


@cache
def load_layouts(path: Path = OBJECT_PATH) -> Layouts:
    """Dtypes of every struct of abi.h, from the built object."""
    btf = open_btf(path)
    try:
        return Layouts(btf.structs())
    finally:
        btf.close()
