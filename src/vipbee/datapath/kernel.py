# SPDX-License-Identifier: Apache-2.0
"""The tables in the kernel: the same `Tables` as datapath/memory.py, over pinned maps.

Bulk writes go through batch commands and fall back to single ones where a kernel or
map type has none. Arrays are read through mmap.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from vipbee.abi import Layouts, MapName
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Records, Snapshot
from vipbee.datapath import address_filter, syscall
from vipbee.datapath.pins import Pinned
from vipbee.errors import CapacityError, EnvironmentUnusable, KernelError

_WINDOW_BYTES = 4 << 20  # a multiple of every stride and of the page size
_NO_BATCH = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, 524}  # 524: ENOTSUPP
_F_MMAPABLE = 1 << 10
_COUNTED_AT_ONCE = 16384
_FULL = {errno.E2BIG, errno.ENOMEM, errno.ENOSPC}

_TABLES = {
    MapName.FRONTENDS: ("frontend_key", "frontend"),
    MapName.ADDRESSES: ("address", "u4"),
    MapName.ADDRESS_FILTER: ("u4", "u8"),
    MapName.TABLES_EPOCH: ("u4", "u4"),
    MapName.SLOTS: ("u4", "u4"),
    MapName.BACKENDS: ("u4", "backend"),
    MapName.SERVICES: ("u4", "service_info"),
    MapName.SERVICE_COUNTERS: ("u4", "service_counters"),
    MapName.BACKEND_COUNTERS: ("u4", "backend_counters"),
    MapName.REPORTS: ("u4", "report"),
    MapName.AGENT: ("u4", "agent_info"),
    MapName.AFFINITY: ("affinity_key", "affinity"),
    MapName.UDP_FLOWS: ("udp_flow_key", "udp_flow"),
    MapName.REASONS: ("u4", "u8"),
}
_PACKET_TABLES = {
    MapName.DEVICES: ("u4", "device"),
    MapName.SERVICE_CIDRS: ("u4", "service_cidrs"),
    MapName.SOURCE_RANGES: ("source_range_key", "u4"),
    MapName.CONNTRACK_OUTSIDE: ("flow_tuple", "conntrack"),
    MapName.CONNTRACK_NEW_OUTSIDE: ("flow_tuple", "conntrack"),
    MapName.CONNTRACK_POD: ("flow_tuple", "conntrack"),
    MapName.CONNTRACK_NEW_POD: ("flow_tuple", "conntrack"),
    MapName.NAT_OUTSIDE: ("flow_tuple", "nat"),
    MapName.NAT_NEW_OUTSIDE: ("flow_tuple", "nat"),
    MapName.NAT_POD: ("flow_tuple", "nat"),
    MapName.NAT_NEW_POD: ("flow_tuple", "nat"),
}
"""Pinned if the packet layer was ever on."""
TABLES = tuple(_TABLES | _PACKET_TABLES)
"""Every map that is opened here, if it is pinned."""


class KernelTables:
    """Pinned maps, open. Close it, or use it as a context manager."""

    def __init__(self, directory: Pinned, layouts: Layouts) -> None:
        """Open every table; raise EnvironmentUnusable if a pin is missing."""
        self._directory = directory
        self._layouts = layouts
        self._fds: dict[MapName, int] = {}
        self._infos: dict[MapName, syscall.MapInfo] = {}
        self.open()

    def open(self) -> None:
        """Open what is pinned now, in place of what is open."""
        self.close()
        self._infos.clear()
        for name in TABLES:
            fd = self._directory.get("maps", name)
            if fd is None and name in _PACKET_TABLES:
                continue
            if fd is None:
                self.close()
                raise EnvironmentUnusable(
                    f"the pinned map {name} is missing", remedy="restart the agent to repair it"
                )
            self._fds[name] = fd
            self._infos[name] = info = syscall.map_info(fd)
            sizes = tuple(dtype.itemsize for dtype in self._dtypes(name))
            if (info.key_size, info.value_size) != sizes:  # it would overrun our buffers
                self.close()
                raise EnvironmentUnusable(
                    f"the pinned map {name} is not one of this version",
                    remedy="run the vipbee version that made it, or `vipbee cleanup`",
                )

    def __enter__(self) -> KernelTables:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    @property
    def capacity(self) -> Capacity:
        """Sizes as pinned, which may differ from the configured ones."""
        return Capacity(
            frontends=self.max_entries(MapName.FRONTENDS),
            addresses=self.max_entries(MapName.ADDRESSES),
            slots=self.max_entries(MapName.SLOTS),
            backends=self.max_entries(MapName.BACKENDS),
            services=min(
                self.max_entries(MapName.SERVICES), self.max_entries(MapName.SERVICE_COUNTERS)
            ),
            source_ranges=self.max_entries(MapName.SOURCE_RANGES)
            if self.has(MapName.SOURCE_RANGES)
            else 0,
        )

    def has(self, name: MapName) -> bool:
        """Whether this map is there; those of the packet layer need not be."""
        return name in self._fds

    def max_entries(self, name: MapName) -> int:
        return self._infos[name].max_entries

    def map_ids(self) -> dict[str, int]:
        """The kernel's ids of the open maps: to notice that a pin is another map by now."""
        return {str(name): info.id for name, info in self._infos.items()}

    # ---- writing ---------------------------------------------------------------------

    def apply(self, op: Op) -> None:
        if op.map == MapName.ADDRESSES and op.values is not None:
            # first the bits, or nobody looks for the rest
            address_filter.add(self._fds[MapName.ADDRESS_FILTER], op.keys)
        try:
            if op.values is None:
                self._delete(op.map, op.keys)
            else:
                self._put(op.map, op.keys, op.values)
        finally:
            if op.map in (MapName.FRONTENDS, MapName.ADDRESSES):
                self._begin_epoch()

    def renew_address_filter(self) -> None:
        """Make the filter say what `addresses` says. Only for who writes the tables.

        Begins an epoch as well: a writer that was killed may not have come so far.
        """
        keys, _ = self.read_hash(MapName.ADDRESSES)
        address_filter.replace(self._fds[MapName.ADDRESS_FILTER], keys)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        """Have the hooks look up anew what their UDP flows were decided by."""
        key, epoch = np.zeros(1, dtype=np.uint32), np.zeros(1, dtype=np.uint32)
        syscall.map_lookup(self._fds[MapName.TABLES_EPOCH], key, epoch)
        syscall.map_update(self._fds[MapName.TABLES_EPOCH], key, epoch + np.uint32(1))

    def _put(self, name: MapName, keys: Records, values: Records) -> None:
        fd = self._fds[name]
        keys, values = np.ascontiguousarray(keys), np.ascontiguousarray(values)
        done = 0
        while done < len(keys):
            try:
                if len(keys) - done > 1:
                    done += syscall.map_update_batch(fd, keys[done:], values[done:])
                    continue
                syscall.map_update(fd, keys[done:], values[done:])
                done += 1
            except syscall.BatchError as error:
                if error.errno in _NO_BATCH:
                    self._put_singly(name, keys[done:], values[done:])
                    return
                done += error.done  # how far the kernel came (F36)
                self._raise(name, error, len(keys) - done)
            except OSError as error:
                self._raise(name, error, len(keys) - done)

    def _put_singly(self, name: MapName, keys: Records, values: Records) -> None:
        for index in range(len(keys)):
            try:
                syscall.map_update(self._fds[name], keys[index:], values[index:])
            except OSError as error:
                self._raise(name, error, len(keys) - index)

    def _raise(self, name: MapName, error: OSError, missing: int) -> None:
        if error.errno in _FULL:
            raise CapacityError(name, needed=missing, free=0) from None
        raise KernelError(f"map {name} cannot be written", error.errno or 0) from error

    def _delete(self, name: MapName, keys: Records) -> None:
        fd = self._fds[name]
        keys = np.ascontiguousarray(keys)
        done = 0
        while done < len(keys):
            try:
                done += syscall.map_delete_batch(fd, keys[done:])
            except syscall.BatchError as error:
                if error.errno == errno.ENOENT:
                    done += error.done + 1  # that one is gone already
                elif error.errno in _NO_BATCH:
                    for index in range(done, len(keys)):
                        syscall.map_delete(fd, keys[index:])
                    return
                else:
                    raise KernelError(f"map {name} cannot be written", error.errno or 0) from error

    # ---- reading ---------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        frontend_keys, frontends = self.read_hash(MapName.FRONTENDS)
        address_keys, addresses = self.read_hash(MapName.ADDRESSES)
        service_ids, services = self.read_hash(MapName.SERVICES)
        return Snapshot(
            frontend_keys=frontend_keys,
            frontends=frontends,
            address_keys=address_keys,
            addresses=addresses,
            slots=self.read_array(MapName.SLOTS),
            backends=self.read_array(MapName.BACKENDS),
            service_ids=service_ids,
            services=services,
            source_range_keys=self.read_hash(MapName.SOURCE_RANGES)[0]
            if self.has(MapName.SOURCE_RANGES)
            else None,
        )

    def read_array(self, name: MapName) -> Records:
        """Every value, by index. What is all zero costs no memory here.

        Through windows of mmap: 3 million entries in 30 ms, and never more than one window
        counts as this process's memory.
        """
        _, dtype = self._dtypes(name)
        info = self._infos[name]
        values = np.zeros(info.max_entries, dtype=dtype)
        if not info.flags & _F_MMAPABLE:
            return self._read_singly(name, values)
        stride = -(-dtype.itemsize // 8) * 8  # the kernel rounds values up
        total = -(-info.max_entries * stride // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = self._fds[name]
        for offset in range(0, total, _WINDOW_BYTES):
            size = min(_WINDOW_BYTES, total - offset)
            with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset) as window:
                # copied out, because a view would keep the window mapped
                raw = np.frombuffer(window, dtype=np.uint8)
                if raw.any():
                    first = offset // stride
                    count = min(size // stride, info.max_entries - first)
                    rows = raw[: count * stride].reshape(count, stride)
                    packed = np.ascontiguousarray(rows[:, : dtype.itemsize])
                    values[first : first + count] = packed.view(dtype)[:, 0]
                    del rows, packed
                del raw
        return values

    def _read_singly(self, name: MapName, values: Records) -> Records:
        key = np.zeros(1, dtype=np.uint32)
        for index in range(len(values)):
            key[0] = index
            syscall.map_lookup(self._fds[name], key, values[index : index + 1])
        return values

    def read_hash(self, name: MapName) -> tuple[Records, Records]:
        """Every entry as parallel keys and values, in no order."""
        key_dtype, value_dtype = self._dtypes(name)
        chunks = list(self.walk_hash(name))
        # not np.concatenate: it turns big-endian members into native ones
        return (
            np.frombuffer(b"".join(keys.tobytes() for keys, _ in chunks), dtype=key_dtype),
            np.frombuffer(b"".join(values.tobytes() for _, values in chunks), dtype=value_dtype),
        )

    def walk_hash(self, name: MapName, at_most: int = 131072) -> Iterator[tuple[Records, Records]]:
        """The same in chunks of up to `at_most` entries (more if one bucket holds more).

        Entries that come or go between two chunks may be missed or met twice.
        """
        key_dtype, value_dtype = self._dtypes(name)
        size = min(4096, at_most)
        cursor = bytearray(max(16, key_dtype.itemsize))
        first, at_end = True, False
        while not at_end:
            keys = np.zeros(size, dtype=key_dtype)
            values = np.zeros(size, dtype=value_dtype)
            try:
                done = syscall.map_lookup_batch(self._fds[name], keys, values, cursor, first=first)
            except syscall.BatchError as error:
                if error.errno == errno.ENOSPC:
                    size *= 2  # one hash bucket holds more than the buffer
                    at_most = max(at_most, size)
                    continue
                if first and error.errno in _NO_BATCH:  # tries below 5.13
                    yield self._walk_singly(name)
                    return
                if error.errno != errno.ENOENT:
                    raise KernelError(f"map {name} cannot be read", error.errno or 0) from error
                done, at_end = error.done, True
            first = False
            yield keys[:done], values[:done]
            size = min(size * 2, at_most)

    def _walk_singly(self, name: MapName) -> tuple[Records, Records]:
        key_dtype, value_dtype = self._dtypes(name)
        fd = self._fds[name]
        keys, values = bytearray(), bytearray()
        key, following = np.zeros(1, dtype=key_dtype), np.zeros(1, dtype=key_dtype)
        value = np.zeros(1, dtype=value_dtype)
        is_first = True
        while syscall.map_next_key(fd, None if is_first else key, following):
            is_first = False
            key[:] = following
            if syscall.map_lookup(fd, key, value):
                keys += key.tobytes()
                values += value.tobytes()
        return np.frombuffer(keys, dtype=key_dtype), np.frombuffer(values, dtype=value_dtype)

    def count_entries(self, name: MapName) -> int:
        """Entries of a hash; 2 million a second."""
        return sum(len(keys) for keys, _ in self.walk_hash(name, _COUNTED_AT_ONCE))

    def read_entries(self, name: MapName, keys: Records) -> tuple[Records, NDArray[np.bool_]]:
        """The values of these keys, and which of them are there; the others are zero."""
        _, value_dtype = self._dtypes(name)
        values = np.zeros(len(keys), dtype=value_dtype)
        fd, keys = self._fds[name], np.ascontiguousarray(keys)
        present = [
            syscall.map_lookup(fd, keys[at : at + 1], values[at : at + 1])
            for at in range(len(keys))
        ]
        return values, np.array(present, dtype=bool)

    def read_reasons(self) -> np.ndarray:
        """u8 by enum reason, summed over CPUs."""
        with open("/sys/devices/system/cpu/possible") as file:
            last = file.read().strip().replace(",", "-").split("-")[-1]
        per_cpu = np.zeros(int(last) + 1, dtype=np.uint64)
        key = np.zeros(1, dtype=np.uint32)
        totals = np.zeros(self.max_entries(MapName.REASONS), dtype=np.uint64)
        for index in range(len(totals)):
            key[0] = index
            syscall.map_lookup(self._fds[MapName.REASONS], key, per_cpu)
            totals[index] = per_cpu.sum()
        return totals

    def _dtypes(self, name: MapName) -> tuple[np.dtype, np.dtype]:
        key, value = (
            np.dtype(part) if part.startswith("u") and part[1:].isdigit() else self._layouts[part]
            for part in (_TABLES | _PACKET_TABLES)[name]
        )
        return key, value
