# SPDX-License-Identifier: Apache-2.0
"""The bits by which the hooks know that an address is no VIP; see bpf/address_filter.h.

A bit that is missing would hide a VIP, one too many only costs time: so bits are set
before addresses appear, and cleared only when all addresses are known. There is one
writer, as for all tables. `fd` is the map address_filter, `addresses` struct address.
"""

from __future__ import annotations

import mmap

import numpy as np

from vipbee.core.snapshot import Records

_BITS = 20  # ADDRESS_FILTER_BITS
_FACTOR = np.uint32(0x9E3779B1)  # ADDRESS_FILTER_FACTOR
_WORDS = 1 << (_BITS - 6)


def add(fd: int, addresses: Records) -> None:
    """Set the bits of these addresses."""
    with mmap.mmap(fd, _WORDS * 8) as memory:
        _write(memory, np.frombuffer(memory[:], dtype=np.uint64) | _bits_of(addresses))


def replace(fd: int, addresses: Records) -> None:
    """Set exactly the bits of these addresses, which must be all there are."""
    with mmap.mmap(fd, _WORDS * 8) as memory:
        _write(memory, _bits_of(addresses))


def _write(memory: mmap.mmap, words: np.ndarray) -> None:
    """Word by word, so that a reader sees each before or after."""
    mapped = np.frombuffer(memory, dtype=np.uint64)
    changed = np.flatnonzero(mapped != words)
    mapped[changed] = words[changed]
    del mapped  # it keeps the memory from being unmapped


def _bits_of(addresses: Records) -> np.ndarray:
    """The filter with nothing but these addresses, uint64 (2^14,)."""
    columns = np.frombuffer(addresses.tobytes(), dtype="<u4").reshape(-1, 4).T
    hashed = np.zeros(len(addresses), dtype=np.uint32)
    for column in columns:
        hashed = (hashed ^ column) * _FACTOR
    bits = (hashed >> np.uint32(32 - _BITS)).astype(np.uint64)
    words = np.zeros(_WORDS, dtype=np.uint64)
    np.bitwise_or.at(words, bits >> np.uint64(6), np.uint64(1) << (bits & np.uint64(63)))
    return words
