# SPDX-License-Identifier: Apache-2.0
"""The tables, entry by entry: what a lookup of the datapath would find now.

`datapath.kernel.KernelTables` is a `PointReader`; this package does not import it. Whole
hashes are read only for what the datapath never asks: other ports of an address, reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import numpy as np

from vipbee.abi import AddressFlag, AffinityClient, FrontendKind, Layouts, MapName, Reason
from vipbee.address import family_of
from vipbee.core.snapshot import Records
from vipbee.observe.explain.records import (
    Affinity,
    Backend,
    Connection,
    Device,
    Flow,
    Frontend,
    ReverseHalf,
    Run,
    Service,
    SourceRange,
)
from vipbee.observe.explain.settings import Settings
from vipbee.observe.readings import HashReader, text
from vipbee.observe.status import ProblemView, read_problems

_SERVICE_ID_BITS = 32  # of a source range's prefix; the address follows


class PointReader(HashReader, Protocol):
    """Open tables, to be read only."""

    def read_array(self, name: MapName) -> Records: ...

    def read_entries(self, name: MapName, keys: Records) -> tuple[Records, Records]:
        """The values of these keys, and which of them are there."""

    def read_reasons(self) -> Records: ...

    def has(self, name: MapName) -> bool: ...


class Lookups:
    """See the module. `now_ns` is the datapath's clock, CLOCK_MONOTONIC."""

    def __init__(
        self,
        reader: PointReader,
        layouts: Layouts,
        settings: Settings,
        *,
        now_ns: int,
        device_names: Mapping[int, str] | None = None,
    ) -> None:
        self._reader = reader
        self._layouts = layouts
        self._device_names = device_names or {}
        self.settings = settings
        self.now_ns = now_ns

    # ---- what a client dials ---------------------------------------------------------------

    def address_flags(self, address: bytes) -> int:
        """abi.AddressFlag; 0: it is not ours."""
        value = self._get(MapName.ADDRESSES, self._address(address))
        return int(value) if value is not None else 0

    def own_addresses(self, family: int) -> list[bytes]:
        """Addresses of this node's interfaces, sorted."""
        keys, values = self._reader.read_hash(MapName.ADDRESSES)
        own = keys[values & AddressFlag.SNAT != 0]
        found = (key.tobytes() for key in own)
        return sorted(address for address in found if family_of(address) == family)

    def frontend(self, address: bytes, port: int, protocol: int) -> Frontend | None:
        key = np.zeros(1, self._layouts["frontend_key"])
        key["address"], key["port"], key["protocol"] = self._address(address), port, protocol
        value = self._get(MapName.FRONTENDS, key)
        return _frontend(key[0], value) if value is not None else None

    def frontends_at(self, address: bytes) -> list[Frontend]:
        """All of this very address, by port."""
        keys, values = self._reader.read_hash(MapName.FRONTENDS)
        wanted = self._address(address)["word"]
        rows = np.flatnonzero((keys["address"]["word"] == wanted).all(axis=1)).tolist()
        return sorted(_frontend(keys[row], values[row]) for row in rows)

    def service(self, service_id: int) -> Service:
        info = self._get(MapName.SERVICES, np.array([service_id], np.uint32))
        if info is None:
            return Service("", f"#{service_id}", "", 0)
        namespace, name, port_name = (
            text(info[member]) for member in ("namespace_", "name", "port_name")
        )
        return Service(namespace, name, port_name, int(info["port"]))

    def is_in_service_cidr(self, address: bytes) -> bool:
        """`in_service_cidr()` of bpf/unallocated.h."""
        known = self._get(MapName.SERVICE_CIDRS, np.zeros(1, np.uint32))
        if known is None:
            return False
        word = self._address(address)["word"][0]
        return any(
            not ((word ^ cidr["network"]["word"]) & cidr["mask"]["word"]).any()
            for cidr in known["cidr"][: int(known["count"])]
        )

    def source_ranges(self, service_id: int) -> list[SourceRange]:
        if not self._reader.has(MapName.SOURCE_RANGES):
            return []
        keys, _ = self._reader.read_hash(MapName.SOURCE_RANGES)
        mine = keys[keys["service_id"] == service_id]
        return sorted(
            SourceRange(key["address"].tobytes(), int(key["prefix_length"]) - _SERVICE_ID_BITS)
            for key in mine
        )

    # ---- who answers -----------------------------------------------------------------------

    def slots(self, run: Run) -> list[int]:
        """Backend ids."""
        keys = np.arange(run.first, run.first + run.size, dtype=np.uint32)
        found: list[int] = self._reader.read_entries(MapName.SLOTS, keys)[0].tolist()
        return found

    def backend(self, backend_id: int) -> Backend | None:
        """None: nobody has this id now."""
        value = self._get(MapName.BACKENDS, np.array([backend_id], np.uint32))
        return _backend(backend_id, value) if value is not None and value["flags"] else None

    def backends_at(self, address: bytes) -> list[Backend]:
        table = self._reader.read_array(MapName.BACKENDS)
        wanted = self._address(address)["word"]
        ids = np.flatnonzero(
            (table["address"]["word"] == wanted).all(axis=1) & (table["flags"] > 0)
        )
        return [_backend(backend_id, table[backend_id]) for backend_id in ids.tolist()]

    def affinity(self, client: bytes, kind: AffinityClient, service_id: int) -> Affinity | None:
        key = np.zeros(1, self._layouts["affinity_key"])
        key["client"], key["client_kind"] = self._address(client), kind
        key["service_id"] = service_id
        value = self._get(MapName.AFFINITY, key)
        if value is None:
            return None
        return Affinity(*(int(value[member]) for member in Affinity._fields))

    # ---- connections -----------------------------------------------------------------------

    def connection(self, zone: str, flow: Flow) -> Connection | None:
        """`find_conntrack()`: the established table first."""
        key = self._flow_key(flow)
        for name in (MapName(f"conntrack_{zone}"), MapName(f"conntrack_new_{zone}")):
            value = self._get(name, key)
            if value is not None:
                return Connection(
                    zone=zone,
                    is_established="_new_" not in name,
                    flow=flow,
                    backend=value["backend"].tobytes(),
                    source=value["source"].tobytes(),
                    **{member: int(value[member]) for member in _CONNECTION_NUMBERS},
                    key=key,
                    entry=np.atleast_1d(value),
                )
        return None

    def reverse_half(self, zone: str, reply: Flow) -> ReverseHalf | None:
        """`find_nat()`."""
        key = self._flow_key(reply)
        for name in (MapName(f"nat_{zone}"), MapName(f"nat_new_{zone}")):
            value = self._get(name, key)
            if value is not None:
                members = ("backend_id", "generation", "flags", "last_seen")
                numbers = (int(value[member]) for member in members)
                return ReverseHalf(zone, _flow(value["original"]), *numbers)
        return None

    # ---- the rest ----------------------------------------------------------------------------

    @cached_property
    def devices(self) -> list[Device]:
        """Every device packets may leave by, by ifindex."""
        if not self._reader.has(MapName.DEVICES):
            return []
        keys, values = self._reader.read_hash(MapName.DEVICES)
        return sorted(
            Device(
                ifindex=ifindex,
                name=self._device_names.get(ifindex, f"#{ifindex}"),
                v4=_address_or_none(value["v4"]),
                v6=_address_or_none(value["v6"]),
                flags=int(value["flags"]),
            )
            for ifindex, value in zip(keys.tolist(), values, strict=True)
        )

    def counted(self, reason: Reason) -> int:
        totals = self._reader.read_reasons()
        return int(totals[reason]) if reason < len(totals) else 0

    def problems(self) -> list[ProblemView]:
        return read_problems(self._reader)

    # ---- parts -------------------------------------------------------------------------------

    def _get(self, name: MapName, key: Records) -> np.void | None:
        if not self._reader.has(name):
            return None
        values, present = self._reader.read_entries(name, key)
        value: np.void | None = values[0] if present[0] else None
        return value

    def _address(self, address: bytes) -> Records:
        return np.frombuffer(address, self._layouts["address"])

    def _flow_key(self, flow: Flow) -> Records:
        key = np.zeros(1, self._layouts["flow_tuple"])
        key["source"] = self._address(flow.source)
        key["destination"] = self._address(flow.destination)
        key["source_port"], key["destination_port"] = flow.source_port, flow.destination_port
        key["protocol"] = flow.protocol
        return key


_CONNECTION_NUMBERS = (
    "backend_port",
    "source_port",
    "service_id",
    "backend_id",
    "generation",
    "client_seen",
    "backend_seen",
    "flags",
)


def _frontend(key: np.void, value: np.void) -> Frontend:
    return Frontend(
        address=key["address"].tobytes(),
        port=int(key["port"]),
        protocol=int(key["protocol"]),
        service_id=int(value["service_id"]),
        kind=FrontendKind(int(value["kind"])),
        flags=int(value["flags"]),
        affinity_timeout_s=int(value["affinity_timeout_s"]),
        cluster=Run(int(value["cluster"]["first"]), int(value["cluster"]["count"])),
        local=Run(int(value["local"]["first"]), int(value["local"]["count"])),
    )


def _backend(backend_id: int, value: np.void) -> Backend:
    return Backend(
        id=backend_id,
        address=value["address"].tobytes(),
        port=int(value["port"]),
        flags=int(value["flags"]),
        service_id=int(value["service_id"]),
        generation=int(value["generation"]),
    )


def _flow(value: np.void) -> Flow:
    return Flow(
        source=value["source"].tobytes(),
        source_port=int(value["source_port"]),
        destination=value["destination"].tobytes(),
        destination_port=int(value["destination_port"]),
        protocol=int(value["protocol"]),
    )


def _address_or_none(value: np.void) -> bytes | None:
    """`device_address()` of bpf/fib.h."""
    address: bytes = value.tobytes()
    return address if any(address[:4]) or any(address[12:]) else None
