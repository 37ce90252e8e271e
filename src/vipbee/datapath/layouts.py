# SPDX-License-Identifier: Apache-2.0
"""NumPy dtypes of the structs in abi.h, from the object's BTF.

`__be16`/`__be32`/`__be64` typedefs become big-endian dtypes; `char[n]` becomes a
fixed-size byte string.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import numpy as np

from vipbee.abi import Layouts
from vipbee.datapath import btf
from vipbee.datapath.btf import OBJECT_PATH, Btf, BtfType, open_btf

_BIG_ENDIAN = {"__be16", "__be32", "__be64"}
_TRANSPARENT = (btf.TYPEDEF, btf.VOLATILE, btf.CONST, btf.VAR)


@cache
def load_layouts(path: Path = OBJECT_PATH) -> Layouts:
    """Dtypes of every struct that maps can hold, by name."""
    found = {}
    with open_btf(path) as types:
        for type_id, entry in types.types():
            if entry.kind == btf.STRUCT and entry.name:
                try:
                    found[entry.name] = _dtype(types, type_id)
                except TypeError:
                    continue  # pointers, bitfields: a kernel struct, not one of ours
    return Layouts(found)


def _dtype(types: Btf, type_id: int) -> np.dtype:
    """The dtype of one type; raise TypeError for what NumPy cannot express."""
    big_endian = False
    entry = types.type(type_id)
    while entry.kind in _TRANSPARENT:
        big_endian |= entry.kind == btf.TYPEDEF and entry.name in _BIG_ENDIAN
        entry = types.type(entry.size_or_type)
    if entry.kind == btf.INT:
        (encoding,) = struct.unpack("=I", entry.payload(4))
        signed = (encoding >> 24) & 1
        order = ">" if big_endian else "<"
        return np.dtype(f"{order}{'i' if signed else 'u'}{entry.size_or_type}")
    if entry.kind == btf.ENUM:
        return np.dtype(f"<u{entry.size_or_type}")
    if entry.kind == btf.ARRAY:
        element_id, _, count = struct.unpack("=III", entry.payload(12))
        if types.type(element_id).name == "char":
            return np.dtype(f"S{count}")
        return np.dtype((_dtype(types, element_id), (count,)))
    if entry.kind in (btf.STRUCT, btf.UNION):
        return _struct_dtype(types, entry)
    raise TypeError(f"BTF kind {entry.kind} has no dtype")


def _struct_dtype(types: Btf, entry: BtfType) -> np.dtype:
    members = types.members(entry)
    return np.dtype(
        {
            "names": [member.name for member in members],
            "formats": [_dtype(types, member.type_id) for member in members],
            "offsets": [member.offset for member in members],
            "itemsize": entry.size_or_type,
        }
    )
