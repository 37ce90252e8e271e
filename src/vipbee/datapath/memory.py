# SPDX-License-Identifier: Apache-2.0
"""The tables in this process: for tests, dry runs and `vipbee` without a kernel at hand.

Behaves like the kernel's maps where it matters: fixed sizes, full hashes refuse, array
entries cannot be deleted. Nothing forwards.
"""

from __future__ import annotations

import errno

import numpy as np

from vipbee.abi import Layouts, MapName
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Records, Snapshot
from vipbee.errors import CapacityError, KernelError


class MemoryTables:
    """Implements core.tables.Tables."""

    def __init__(self, layouts: Layouts, capacity: Capacity) -> None:
        self._layouts = layouts
        self._sizes = {
            MapName.FRONTENDS: capacity.frontends,
            MapName.ADDRESSES: capacity.addresses,
            MapName.SERVICES: capacity.services,
            MapName.SOURCE_RANGES: capacity.source_ranges,
        }
        u4 = np.dtype(np.uint32)
        self._dtypes = {
            MapName.FRONTENDS: (layouts["frontend_key"], layouts["frontend"]),
            MapName.ADDRESSES: (layouts["address"], u4),
            MapName.SERVICES: (u4, layouts["service_info"]),
            MapName.SOURCE_RANGES: (layouts["source_range_key"], u4),
        }
        self._hashes: dict[MapName, dict[bytes, bytes]] = {name: {} for name in self._sizes}
        self.arrays: dict[MapName, Records] = {
            MapName.SLOTS: np.zeros(capacity.slots, np.uint32),
            MapName.BACKENDS: np.zeros(capacity.backends, layouts["backend"]),
            MapName.SERVICE_COUNTERS: np.zeros(capacity.services, layouts["service_counters"]),
            MapName.BACKEND_COUNTERS: np.zeros(capacity.backends, layouts["backend_counters"]),
        }

    def apply(self, op: Op) -> None:
        """Write or delete the entries of one operation, in their order."""
        if op.map in self.arrays:
            self._write_array(op)
            return
        keys, values = self._raw(op)
        table = self._hashes[op.map]
        if values is None:
            for key in keys:
                table.pop(key, None)
            return
        for at, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key not in table and len(table) >= self._sizes[op.map]:
                raise CapacityError(op.map, needed=len(keys) - at, free=0)
            table[key] = value

    def snapshot(self) -> Snapshot:
        """Return everything the tables hold now, as copies."""
        frontend_keys, frontends = self._dump(MapName.FRONTENDS)
        address_keys, addresses = self._dump(MapName.ADDRESSES)
        service_ids, services = self._dump(MapName.SERVICES)
        return Snapshot(
            frontend_keys=frontend_keys,
            frontends=frontends,
            address_keys=address_keys,
            addresses=addresses,
            slots=self.arrays[MapName.SLOTS].copy(),
            backends=self.arrays[MapName.BACKENDS].copy(),
            service_ids=service_ids,
            services=services,
            source_range_keys=self._dump(MapName.SOURCE_RANGES)[0],
        )

    def load(self, snapshot: Snapshot) -> None:
        """Hold what `snapshot` says instead; of equal keys the last counts."""
        hashes = {
            MapName.FRONTENDS: (snapshot.frontend_keys, snapshot.frontends),
            MapName.ADDRESSES: (snapshot.address_keys, snapshot.addresses),
            MapName.SERVICES: (snapshot.service_ids, snapshot.services),
        }
        if snapshot.source_range_keys is not None:
            ranges = snapshot.source_range_keys
            hashes[MapName.SOURCE_RANGES] = (ranges, np.ones(len(ranges), np.uint32))
        for name, (keys, values) in hashes.items():
            self._hashes[name] = dict(zip(_elements(keys), _elements(values), strict=True))
        self.arrays[MapName.SLOTS][:] = snapshot.slots
        self.arrays[MapName.BACKENDS][:] = snapshot.backends

    def _write_array(self, op: Op) -> None:
        array = self.arrays[op.map]
        if op.values is None:
            raise KernelError(f"delete from map {op.map}", errno.EINVAL)
        if len(op.keys) and int(op.keys.max()) >= len(array):
            raise KernelError(f"write to map {op.map}", errno.E2BIG)
        array[op.keys] = op.values

    def _raw(self, op: Op) -> tuple[list[bytes], list[bytes] | None]:
        key_dtype, value_dtype = self._dtypes[op.map]
        if op.keys.dtype != key_dtype or (op.values is not None and op.values.dtype != value_dtype):
            raise TypeError(f"entries of map {op.map} have another layout")  # a programming error
        keys = _elements(op.keys)
        return keys, None if op.values is None else _elements(op.values)

    def _dump(self, name: MapName) -> tuple[Records, Records]:
        key_dtype, value_dtype = self._dtypes[name]
        table = self._hashes[name]
        # through bytearray, so that the arrays can be written to like any other
        keys = np.frombuffer(bytearray(b"".join(table)), key_dtype)
        return keys, np.frombuffer(bytearray(b"".join(table.values())), value_dtype)


def _elements(array: Records) -> list[bytes]:
    raw: list[bytes] = array.view(np.dtype((np.void, array.dtype.itemsize))).tolist()
    return raw
