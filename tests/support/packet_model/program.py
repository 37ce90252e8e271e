# SPDX-License-Identifier: Apache-2.0
"""A World as map entries, and connections read back: the one place that knows abi.h."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import Endpoint
from tests.support.packet_model.world import Backend, Frontend, World
from vipbee.abi import DeviceFlag, FrontendFlag, Layouts
from vipbee.datapath import address_filter, syscall

MAPPED = bytes(10) + b"\xff\xff"

CONNTRACK_MAPS = {
    zone: (f"conntrack_{zone}", f"conntrack_new_{zone}", f"nat_{zone}", f"nat_new_{zone}")
    for zone in Zone
}
STATE_MAPS = (*(name for names in CONNTRACK_MAPS.values() for name in names), "fragments")


def mapped(address: bytes) -> bytes:
    return MAPPED + address if len(address) == 4 else address


def unmapped(address: bytes) -> bytes:
    return address[12:] if address.startswith(MAPPED) else address


class Tables:
    """Maps of a loaded object, by fd."""

    def __init__(self, layouts: Layouts, fd_of: Callable[[str], int]) -> None:
        self.layouts = layouts
        self.fd_of = fd_of

    # ---- the agent's side ----------------------------------------------------------------

    def program(self, world: World) -> None:
        """Write the whole world; entries of an earlier one must be gone (`clear`)."""
        for backend in world.backends.values():
            self._put_backend(backend)
        first = 1
        for frontend in world.frontends.values():
            first = self._put_frontend(frontend, first)
        known = b"".join(mapped(address) for address in world.addresses)
        address_filter.add(
            self.fd_of("address_filter"), np.frombuffer(known, dtype=self.layouts["address"])
        )
        for address, flags in world.addresses.items():
            self._put("addresses", mapped(address), np.array([int(flags)], dtype=np.uint32))
        for device in world.devices.values():
            value = np.zeros(1, dtype=self.layouts["device"])
            value["v4"] = self._address(mapped(device.v4))
            value["v6"] = self._address(device.v6)
            value["mtu"] = device.mtu
            flags = DeviceFlag.POD if device.is_pod else DeviceFlag.UPLINK
            flags = DeviceFlag.LOOPBACK if device.name == "lo" else flags
            value["flags"] = flags if device.has_ethernet else flags | DeviceFlag.L3
            self._put("devices", device.ifindex.to_bytes(4, "little"), value)

    def _address(self, address: bytes) -> np.ndarray:
        return np.frombuffer(address, dtype=self.layouts["address"])

    def _put(self, name: str, key: bytes | np.ndarray, value: np.ndarray) -> None:
        raw = bytearray(key if isinstance(key, bytes) else key.tobytes())
        syscall.map_update(self.fd_of(name), raw, value)

    def _put_backend(self, backend: Backend) -> None:
        value = np.zeros(1, dtype=self.layouts["backend"])
        value["address"] = self._address(mapped(backend.address))
        value["port"], value["protocol"] = backend.port, backend.protocol
        value["flags"], value["service_id"] = int(backend.flags), backend.service_id
        value["generation"] = backend.generation
        self._put("backends", backend.id.to_bytes(4, "little"), value)

    def _put_frontend(self, frontend: Frontend, first: int) -> int:
        key = np.zeros(1, dtype=self.layouts["frontend_key"])
        key["address"] = self._address(mapped(frontend.address))
        key["port"], key["protocol"] = frontend.port, frontend.protocol
        value = np.zeros(1, dtype=self.layouts["frontend"])
        value["service_id"], value["kind"] = frontend.service_id, int(frontend.kind)
        value["affinity_timeout_s"] = frontend.affinity_timeout_s
        flags = FrontendFlag.POLICY_LOCAL if frontend.policy_local else FrontendFlag(0)
        if frontend.ranges is not None:
            flags |= FrontendFlag.SOURCE_RANGES
            self._put_ranges(frontend)
        value["flags"] = int(flags)
        for name, ids in (("cluster", frontend.cluster), ("local", frontend.local)):
            value[name]["first"], value[name]["count"] = first, len(ids)
            for backend_id in ids:
                slot = np.array([backend_id], dtype=np.uint32)
                self._put("slots", first.to_bytes(4, "little"), slot)
                first += 1
        self._put("frontends", key, value)
        return first

    def _put_ranges(self, frontend: Frontend) -> None:
        for network, length in frontend.ranges or ():
            key = np.zeros(1, dtype=self.layouts["source_range_key"])
            key["prefix_length"] = 32 + length + (96 if len(network) == 4 else 0)
            key["service_id"] = frontend.service_id
            key["address"] = self._address(mapped(network))
            self._put("source_ranges", key, np.ones(1, dtype=np.uint32))

    def remove_frontends(self, world: World) -> None:
        for frontend in world.frontends.values():
            key = np.zeros(1, dtype=self.layouts["frontend_key"])
            key["address"] = self._address(mapped(frontend.address))
            key["port"], key["protocol"] = frontend.port, frontend.protocol
            syscall.map_delete(self.fd_of("frontends"), bytearray(key.tobytes()))

    # ---- what the datapath keeps ---------------------------------------------------------

    def entries(
        self, name: str, key_layout: str, value_layout: str
    ) -> Iterator[tuple[np.void, np.void]]:
        fd, key_type = self.fd_of(name), self.layouts[key_layout]
        following = bytearray(key_type.itemsize)
        key: bytearray | None = None
        value = np.zeros(1, dtype=self.layouts[value_layout])
        while syscall.map_next_key(fd, key, following):
            key = bytearray(following)
            if syscall.map_lookup(fd, key, value):
                yield np.frombuffer(bytes(key), dtype=key_type)[0], value[0].copy()

    def size(self, name: str) -> int:
        key_size = syscall.map_info(self.fd_of(name)).key_size
        following, key, count = bytearray(key_size), None, 0
        while syscall.map_next_key(self.fd_of(name), key, following):
            key, count = bytearray(following), count + 1
        return count

    def sizes(self) -> dict[str, int]:
        return {name: self.size(name) for name in STATE_MAPS}

    def clear(self, *names: str) -> None:
        for name in names or (*STATE_MAPS, "affinity"):
            fd = self.fd_of(name)
            key = bytearray(syscall.map_info(fd).key_size)
            while syscall.map_next_key(fd, None, key):
                syscall.map_delete(fd, key)
        for index, value in self.early_fragments():
            self._put("early_fragments", index, np.zeros_like(value))

    def early_fragments(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Later fragments that wait for their first one: (place, record)."""
        fd, kind = self.fd_of("early_fragments"), self.layouts["early_fragment"]
        found = []
        for place in range(syscall.map_info(fd).max_entries):
            index, value = np.array([place], np.uint32), np.zeros(1, kind)
            if syscall.map_lookup(fd, index, value) and value["length"][0]:
                found.append((index, value))
        return found

    def connections(self, zone: Zone) -> dict[tuple[int, Endpoint, Endpoint], np.void]:
        """Forward halves by (protocol, client, frontend), established before unfinished."""
        established, unfinished, *_ = CONNTRACK_MAPS[zone]
        found = {}
        for name in (unfinished, established):
            for key, value in self.entries(name, "flow_tuple", "conntrack"):
                found[tuple_of(key)] = value
        return found

    def reply_tuples(self, zone: Zone) -> set[tuple[int, Endpoint, Endpoint]]:
        *_, established, unfinished = CONNTRACK_MAPS[zone]
        return {
            tuple_of(key)
            for name in (established, unfinished)
            for key, _ in self.entries(name, "flow_tuple", "nat")
        }

    def shift_clock(self, seconds: int) -> None:
        """Make everything kept older by so much: the kernel's clock cannot be moved."""
        for names in CONNTRACK_MAPS.values():
            for name in names:
                layout = "conntrack" if name.startswith("conntrack") else "nat"
                for key, value in list(self.entries(name, "flow_tuple", layout)):
                    self._older(name, key, value, seconds)
        for key, value in list(self.entries("fragments", "fragment_key", "fragment")):
            self._older("fragments", key, value, seconds)
        for index, early in self.early_fragments():
            early["last_seen"] -= np.uint32(seconds)
            self._put("early_fragments", index, early)
        for key, value in list(self.entries("affinity", "affinity_key", "affinity")):
            value["last_used_ns"] = max(0, int(value["last_used_ns"]) - seconds * 1_000_000_000)
            self._put("affinity", key.tobytes(), value.reshape(1))

    def _older(self, name: str, key: np.void, value: np.void, seconds: int) -> None:
        value["last_seen"] = np.uint32((int(value["last_seen"]) - seconds) & 0xFFFFFFFF)
        self._put(name, key.tobytes(), np.frombuffer(bytearray(value.tobytes()), dtype=value.dtype))


def tuple_of(key: np.void) -> tuple[int, Endpoint, Endpoint]:
    source = Endpoint(unmapped(key["source"].tobytes()), int(key["source_port"]))
    destination = Endpoint(unmapped(key["destination"].tobytes()), int(key["destination_port"]))
    return int(key["protocol"]), source, destination
