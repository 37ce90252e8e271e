# SPDX-License-Identifier: Apache-2.0
"""What `conntrack list`, `nat list` and `affinity list` show, and how it is read.

`-o json` and `-o yaml` print lists of exactly these Structs; members are only ever added.
Tables are walked in chunks and filtered as columns: Python runs once per row shown.

`conntrack list`   protocol, client, frontend, backend, source (what the backend sees), each as
                   IP:port; namespace, name, portName of the Service (name "#id" if it is gone);
                   zone ("outside" | "pod"), state ("unconfirmed" | "handshake" | "established" |
                   "closing" | "reset" | "udp"), isEvictable (in the table a flood evicts from),
                   isRedirected (both directions bypass the stack), ageSeconds (since the last
                   packet), remainingSeconds
`nat list`         protocol, zone, isEvictable; reply (backend → source) and original (client →
                   frontend) as "IP:port → IP:port"; namespace, name, portName; ageSeconds
`affinity list`    client (an address, or "netns:<cookie>" for a pod's sockets), namespace, name,
                   portName, backend (IP:port, or null if it is gone), idleSeconds,
                   remainingSeconds
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import NamedTuple, Protocol

import numpy as np
from msgspec import Struct

from vipbee.abi import AffinityClient, ConntrackFlag, MapName
from vipbee.address import family_of, format_endpoint, parse_address
from vipbee.core.connection_age import STATE_NAMES, ages_s, remaining_s, states
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.snapshot import Records, Snapshot
from vipbee.errors import UsageError
from vipbee.observe.affinity_clients import client_name
from vipbee.observe.readings import text
from vipbee.observe.services import EVERYTHING, Wanted

_PROTOCOLS = {6: "TCP", 17: "UDP", 1: "ICMP", 58: "ICMPv6"}
_NS = 1_000_000_000
ZONES = ("outside", "pod")


class ConnectionReader(Protocol):
    """Open tables, to be read only."""

    def snapshot(self) -> Snapshot: ...

    def has(self, name: MapName) -> bool: ...

    def walk_hash(self, name: MapName) -> Iterator[tuple[Records, Records]]: ...


class Filter(NamedTuple):
    """Which entries to show; None is any."""

    service: Wanted = EVERYTHING
    client: str | None = None  # an address or a CIDR
    state: str | None = None
    zone: str | None = None


class _OfService(Struct, gc=False, rename="camel", kw_only=True):
    namespace: str
    name: str
    port_name: str

    @property
    def service(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ConntrackView(_OfService, gc=False, rename="camel", kw_only=True):
    protocol: str
    client: str
    frontend: str
    backend: str
    source: str
    zone: str
    state: str
    is_evictable: bool
    is_redirected: bool
    age_seconds: int
    remaining_seconds: int


class NatView(_OfService, gc=False, rename="camel", kw_only=True):
    protocol: str
    reply: str
    original: str
    zone: str
    is_evictable: bool
    age_seconds: int


class AffinityView(_OfService, gc=False, rename="camel", kw_only=True):
    client: str
    backend: str | None
    idle_seconds: int
    remaining_seconds: int


def connections(
    reader: ConnectionReader, wanted: Filter, lifetimes: Lifetimes, now_s: int
) -> Iterator[ConntrackView]:
    """Live connections in the order of the tables; those past their lifetime are as if absent."""
    names = _Names(reader.snapshot())
    for keys, values, zone, is_evictable in _walk(reader, wanted, "conntrack"):
        left = remaining_s(keys["protocol"], values, now_s, lifetimes)
        mask = (left >= 0) & names.mask(values["service_id"], wanted.service)
        mask &= _is_client(keys["source"], wanted.client)
        state = states(keys["protocol"], values)
        if wanted.state is not None:
            mask &= state == _state_index(wanted.state)
        rows = np.flatnonzero(mask)
        keys, values = keys[rows], values[rows]
        for columns in zip(
            keys["protocol"].tolist(),
            _endpoints(keys, "source"),
            _endpoints(keys, "destination"),
            _endpoints(values, "backend"),
            _endpoints(values, "source"),
            values["service_id"].tolist(),
            values["flags"].tolist(),
            state[rows].tolist(),
            ages_s(values, now_s).tolist(),
            left[rows].tolist(),
            strict=True,
        ):
            protocol, client, frontend, backend, source, service_id, flags, at, age, rest = columns
            yield ConntrackView(
                **names.of(service_id),
                protocol=_PROTOCOLS.get(protocol, str(protocol)),
                client=client,
                frontend=frontend,
                backend=backend,
                source=source,
                zone=zone,
                state=STATE_NAMES[at],
                is_evictable=is_evictable,
                is_redirected=bool(flags & ConntrackFlag.REDIRECT),
                age_seconds=max(age, 0),
                remaining_seconds=rest,
            )


def reverse_halves(reader: ConnectionReader, wanted: Filter, now_s: int) -> Iterator[NatView]:
    """Every entry of the NAT tables."""
    names = _Names(reader.snapshot())
    for keys, values, zone, is_evictable in _walk(reader, wanted, "nat"):
        mask = names.mask(values["service_id"], wanted.service)
        mask &= _is_client(values["original"]["source"], wanted.client)
        rows = np.flatnonzero(mask)
        keys, values = keys[rows], values[rows]
        original = np.ascontiguousarray(values["original"])
        for columns in zip(
            keys["protocol"].tolist(),
            _endpoints(keys, "source"),
            _endpoints(keys, "destination"),
            _endpoints(original, "source"),
            _endpoints(original, "destination"),
            values["service_id"].tolist(),
            ages_s(values, now_s).tolist(),
            strict=True,
        ):
            protocol, backend, source, client, frontend, service_id, age = columns
            yield NatView(
                **names.of(service_id),
                protocol=_PROTOCOLS.get(protocol, str(protocol)),
                reply=f"{backend} → {source}",
                original=f"{client} → {frontend}",
                zone=zone,
                is_evictable=is_evictable,
                age_seconds=max(age, 0),
            )


def affinities(reader: ConnectionReader, wanted: Filter, now_ns: int) -> Iterator[AffinityView]:
    """Clients that would return to their backend; not those whose time is over."""
    snapshot = reader.snapshot()
    names = _Names(snapshot)
    timeouts: dict[int, int] = {}
    for service_id, timeout in zip(
        snapshot.frontends["service_id"].tolist(),
        snapshot.frontends["affinity_timeout_s"].tolist(),
        strict=True,
    ):
        timeouts[service_id] = max(timeout, timeouts.get(service_id, 0))
    for keys, values in reader.walk_hash(MapName.AFFINITY):
        mask = names.mask(keys["service_id"], wanted.service)
        if wanted.client is not None:
            mask &= keys["client_kind"] == AffinityClient.ADDRESS
            mask &= _is_client(keys["client"], wanted.client)
        for row in np.flatnonzero(mask).tolist():
            service_id = int(keys["service_id"][row])
            idle_s = max(now_ns - int(values["last_used_ns"][row]), 0) // _NS
            remaining = timeouts.get(service_id, 0) - idle_s
            if remaining < 0:
                continue
            yield AffinityView(
                **names.of(service_id),
                client=client_name(keys[row]["client_kind"], keys[row]["client"].tobytes()),
                backend=_backend(snapshot, values[row]),
                idle_seconds=idle_s,
                remaining_seconds=remaining,
            )


# ---- parts -----------------------------------------------------------------------------


class _Names:
    """Names of Services by service id."""

    def __init__(self, snapshot: Snapshot) -> None:
        infos = snapshot.services
        ids = snapshot.service_ids
        self._ids = ids
        self._infos = infos
        self._names = {
            service_id: {"namespace": text(a), "name": text(b), "port_name": text(c)}
            for service_id, a, b, c in zip(
                ids.tolist(),
                infos["namespace_"].tolist(),
                infos["name"].tolist(),
                infos["port_name"].tolist(),
                strict=True,
            )
        }

    def of(self, service_id: int) -> dict[str, str]:
        found = self._names.get(service_id)
        # 0 is no Service's: the tuple of a connection that bypasses us (ConntrackFlag.DIRECT)
        name = f"#{service_id}" if service_id else "(direct)"
        return found or {"namespace": "", "name": name, "port_name": ""}

    def mask(self, service_ids: Records, wanted: Wanted) -> Records:
        if wanted.is_everything:
            return np.ones(len(service_ids), bool)
        chosen = np.ones(len(self._ids), bool)
        if wanted.namespace is not None:
            chosen &= self._infos["namespace_"] == wanted.namespace.encode()
        if wanted.name is not None:
            chosen &= self._infos["name"] == wanted.name.encode()
        return np.isin(service_ids, self._ids[chosen])


def _walk(
    reader: ConnectionReader, wanted: Filter, kind: str
) -> Iterator[tuple[Records, Records, str, bool]]:
    """Chunks of one kind of table: keys, values, zone, whether a flood evicts from it."""
    for zone in ZONES:
        for infix in ("", "new_"):
            name = MapName(f"{kind}_{infix}{zone}")
            if wanted.zone in (None, zone) and reader.has(name):
                for keys, values in reader.walk_hash(name):
                    yield keys, values, zone, bool(infix)


def _is_client(addresses: Records, wanted: str | None) -> Records:
    if wanted is None:
        return np.ones(len(addresses), bool)
    try:
        network = ip_network(wanted, strict=False)
    except ValueError:
        raise UsageError(f"--client wants an address or a CIDR, not {wanted!r}") from None
    address = parse_address(str(network.network_address))
    length = network.prefixlen + (96 if family_of(address) == 4 else 0)
    mask = ((1 << 128) - (1 << (128 - length))).to_bytes(16, "big")
    masked = _raw(addresses) & np.frombuffer(mask, np.uint8)
    return np.asarray((masked == np.frombuffer(address, np.uint8)).all(axis=1))


def _state_index(name: str) -> int:
    if name not in STATE_NAMES:
        raise UsageError(f"--state wants one of {', '.join(STATE_NAMES)}, not {name!r}")
    return STATE_NAMES.index(name)


def _endpoints(records: Records, member: str) -> list[str]:
    """Member `x` with its `x_port`, as text."""
    ports = records[f"{member}_port"].tolist()
    rows = _raw(records[member])
    return [format_endpoint(a.tobytes(), port) for a, port in zip(rows, ports, strict=True)]


def _raw(addresses: Records) -> Records:
    return np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 16)


def _backend(snapshot: Snapshot, value: np.void) -> str | None:
    if value["backend_id"] >= len(snapshot.backends):
        return None
    backend = snapshot.backends[value["backend_id"]]
    if backend["generation"] != value["generation"] or not backend["flags"]:
        return None
    return format_endpoint(backend["address"].tobytes(), int(backend["port"]))
