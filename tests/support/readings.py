# SPDX-License-Identifier: Apache-2.0
"""Tables in this process that can be read like the kernel's: an `observe.readings.Reader`.

tables = ReadableTables()
tables.program(service_port("web", backends=[backend("10.244.1.2")]))
tables.count("web", opened=3, closed=1)
"""

from __future__ import annotations

import numpy as np

from vipbee.abi import BackendFlag, FrontendKind, MapName, Reason, ReportSeverity
from vipbee.address import UNSPECIFIED_V4, parse_address
from vipbee.core.desired import Desired
from vipbee.core.snapshot import Capacity, Records, Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.model import (
    Backend,
    Frontend,
    FrontendKey,
    ServiceName,
    ServicePort,
    ServicePortKey,
)

TCP = 6
READY = BackendFlag.SERVING | BackendFlag.READY | BackendFlag.IN_CLUSTER
LOCAL = READY | BackendFlag.IN_LOCAL | BackendFlag.ON_NODE
TERMINATING = BackendFlag.SERVING | BackendFlag.TERMINATING
NOT_CHOSEN = BackendFlag.SERVING | BackendFlag.READY

SIZE = 64


def backend(address: str, flags: int = READY, port: int = 8080) -> Backend:
    return Backend(parse_address(address), port, int(flags))


def frontend(
    address: str, kind: int = FrontendKind.CLUSTER_IP, *, port: int = 80, local: bool = False
) -> Frontend:
    return Frontend(FrontendKey(parse_address(address), port, TCP), kind, local)


def node_port(port: int, *, local: bool = False) -> Frontend:
    return Frontend(FrontendKey(UNSPECIFIED_V4, port, TCP), FrontendKind.NODE_PORT, local)


def service_port(
    name: str,
    *frontends: Frontend,
    namespace: str = "default",
    port_name: str = "",
    backends: tuple[Backend, ...] = (),
    affinity_timeout_s: int = 0,
    endpoints: int | None = None,
) -> ServicePort:
    return ServicePort(
        key=ServicePortKey(namespace, name, port_name, TCP, 4),
        service_type="ClusterIP",
        port=80,
        created="",
        frontends=frontends,
        backends=tuple(sorted(backends)),
        affinity_timeout_s=affinity_timeout_s,
        endpoints=len(backends) if endpoints is None else endpoints,
    )


class ReadableTables:
    """A `Reader` with room for SIZE entries in each table."""

    def __init__(self) -> None:
        self.layouts = load_layouts()
        capacity = Capacity(SIZE, SIZE, SIZE, SIZE, SIZE)
        self.tables = MemoryTables(self.layouts, capacity)
        self._desired = Desired(self.layouts, capacity)
        self.reason_totals = np.zeros(len(Reason) + 1, dtype=np.uint64)
        self.card = np.zeros(1, dtype=self.layouts["agent_info"])
        self.reports = np.zeros(0, dtype=self.layouts["report"])

    def program(self, *ports: ServicePort, nodes: dict[str, int] | None = None) -> None:
        by_service: dict[ServiceName, list[ServicePort]] = {}
        for port in ports:
            by_service.setdefault(port.key.service, []).append(port)
        addresses = {parse_address(text): flags for text, flags in (nodes or {}).items()}
        for operation in self._desired.update(by_service, addresses):
            self.tables.apply(operation)

    def count(self, name: str, **counters: int) -> None:
        """Set counters of the Service port of this Service."""
        infos = self.snapshot()
        (at,) = np.flatnonzero(infos.services["name"] == name.encode())
        for counter, value in counters.items():
            array = self.tables.arrays[MapName.SERVICE_COUNTERS]
            array[counter][infos.service_ids[at]] = value

    def count_backend(self, address: str, **counters: int) -> None:
        raw = np.frombuffer(parse_address(address), dtype=self.layouts["address"])
        backends = self.tables.arrays[MapName.BACKENDS]
        (at,) = np.flatnonzero((backends["address"]["word"] == raw["word"]).all(axis=1))
        for counter, value in counters.items():
            self.tables.arrays[MapName.BACKEND_COUNTERS][counter][at] = value

    # ---- Reader ------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return self.tables.snapshot()

    def read_array(self, name: MapName) -> Records:
        return self.card if name == MapName.AGENT else self.tables.arrays[name]

    def read_hash(self, name: MapName) -> tuple[Records, Records]:
        if name == MapName.REPORTS:
            return np.arange(len(self.reports), dtype=np.uint32), self.reports
        return np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.uint32)

    def read_reasons(self) -> Records:
        return self.reason_totals

    def has(self, name: MapName) -> bool:
        return name in (MapName.UDP_FLOWS, MapName.AFFINITY)

    def count_entries(self, name: MapName) -> int:
        return len(self.read_hash(name)[0])

    def max_entries(self, name: MapName) -> int:
        return SIZE


class PointTables(ReadableTables):
    """The same, entry by entry: an `observe.explain.lookups.PointReader`."""

    def __init__(self) -> None:
        super().__init__()
        self.hashes: dict[MapName, tuple[Records, Records]] = {}
        """Tables of the packet layer, as parallel keys and values."""

    def add_device(self, ifindex: int, flags: int, v4: str) -> None:
        key, value = np.array([ifindex], np.uint32), np.zeros(1, self.layouts["device"])
        value["v4"] = np.frombuffer(parse_address(v4), self.layouts["address"])
        value["flags"] = flags
        keys, values = self.hashes.get(MapName.DEVICES, (key[:0], value[:0]))
        # not np.concatenate: it turns big-endian members into native ones
        self.hashes[MapName.DEVICES] = (
            np.append(keys, key),
            np.frombuffer(values.tobytes() + value.tobytes(), value.dtype),
        )

    def report(self, about: str, message: str) -> None:
        row = np.zeros(1, self.layouts["report"])
        row["object"], row["message"] = about.encode(), message.encode()
        row["severity"] = ReportSeverity.ERROR
        self.reports = np.append(self.reports, row)

    def has(self, name: MapName) -> bool:
        return name in self._tables() or name in self.tables.arrays

    def read_hash(self, name: MapName) -> tuple[Records, Records]:
        return self._tables()[name]

    def read_entries(self, name: MapName, keys: Records) -> tuple[Records, Records]:
        if name in self.tables.arrays:
            return self.tables.arrays[name][keys], np.ones(len(keys), bool)
        known, values = self._tables()[name]
        rows = {key.tobytes(): value for key, value in zip(known, values, strict=True)}
        nothing = np.zeros(1, values.dtype)[0]
        found = [rows.get(key.tobytes(), nothing) for key in keys]
        return np.array(found, values.dtype), np.array([key.tobytes() in rows for key in keys])

    def _tables(self) -> dict[MapName, tuple[Records, Records]]:
        now = self.snapshot()
        return {
            MapName.FRONTENDS: (now.frontend_keys, now.frontends),
            MapName.ADDRESSES: (now.address_keys, now.addresses),
            MapName.SERVICES: (now.service_ids, now.services),
            MapName.REPORTS: super().read_hash(MapName.REPORTS),
            **self.hashes,
        }
