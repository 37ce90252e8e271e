# SPDX-License-Identifier: Apache-2.0
"""From tables full of numbers to Services, frontends and backends with their names. Pure.

Columns are sorted and grouped by NumPy; Python runs once per row that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vipbee.abi import AddressFlag, BackendFlag, FrontendFlag, FrontendKind
from vipbee.address import (
    UNSPECIFIED_V4,
    UNSPECIFIED_V6,
    family_of,
    format_address,
    parse_address,
)
from vipbee.core.snapshot import Records, Snapshot
from vipbee.observe.readings import Readings, active, text
from vipbee.observe.view import (
    BackendView,
    Connections,
    FrontendView,
    ServiceBackendView,
    ServiceView,
)

_PROTOCOLS = {6: "TCP", 17: "UDP"}
_KINDS = {int(kind): kind.label for kind in FrontendKind}
_SELECTED = BackendFlag.IN_CLUSTER | BackendFlag.IN_LOCAL


class Wanted(NamedTuple):
    """Which Services to show; None is any."""

    namespace: str | None = None
    name: str | None = None

    @property
    def is_everything(self) -> bool:
        return self.namespace is None and self.name is None

    def __str__(self) -> str:
        return "/".join(part for part in self if part is not None)


EVERYTHING = Wanted()


def services(readings: Readings, wanted: Wanted = EVERYTHING) -> list[ServiceView]:
    """Every Service port, sorted by namespace, name, port name and family.

    Entries that no name belongs to (an agent killed while programming) appear as `#id`.
    """
    snapshot = readings.snapshot
    positions = _matching(snapshot.services, wanted)
    ids = snapshot.service_ids[positions].astype(np.int64)
    infos = snapshot.services[positions]
    frontends = _Frontends(snapshot)
    backends = _Backends(readings, ids if not wanted.is_everything else None)
    connections = _connections(readings.service_counters[ids])
    columns = _columns(infos)
    views = [
        ServiceView(
            **named,
            affinity_timeout_seconds=frontends.affinity_of(service_id),
            connections=counted,
            frontends=frontends.of(service_id),
            backends=backends.of(service_id),
        )
        for service_id, counted, named in zip(ids.tolist(), connections, columns, strict=True)
    ]
    if wanted.is_everything:
        named = set(ids.tolist())
        for service_id in sorted((frontends.ids() | backends.ids()) - named):
            views.append(_unnamed(readings, service_id, frontends, backends))
    return views


def is_programmed(snapshot: Snapshot, wanted: Wanted) -> bool:
    """Whether there is any Service like that."""
    return len(_matching(snapshot.services, wanted)) > 0


def backends(readings: Readings, wanted: Wanted = EVERYTHING) -> list[ServiceBackendView]:
    """Every backend of every Service port, sorted by address, port and Service."""
    found = [
        ServiceBackendView(
            address=backend.address,
            port=backend.port,
            protocol=backend.protocol,
            state=backend.state,
            selected=backend.selected,
            node_local=backend.node_local,
            opened=backend.opened,
            active=backend.active,
            namespace=service.namespace,
            name=service.name,
            port_name=service.port_name,
        )
        for service in services(readings, wanted)
        for backend in service.backends
    ]
    # stable: Services of one backend stay in their order
    return sorted(found, key=lambda view: (parse_address(view.address), view.port, view.protocol))


# ---- groups by service id ------------------------------------------------------------


class _Groups:
    """Rows by service id: sorted once, then found by their bounds."""

    def __init__(self, service_ids: Records) -> None:
        found, starts = np.unique(service_ids, return_index=True)
        bounds = [*starts.tolist(), len(service_ids)]
        self._bounds = {
            service_id: (bounds[at], bounds[at + 1]) for at, service_id in enumerate(found.tolist())
        }

    def ids(self) -> set[int]:
        return set(self._bounds)

    def rows(self, service_id: int) -> range:
        return range(*self._bounds.get(service_id, (0, 0)))


class _Frontends(_Groups):
    def __init__(self, snapshot: Snapshot) -> None:
        keys, values = snapshot.frontend_keys, snapshot.frontends
        order = np.lexsort((keys["port"], *_words(keys), values["kind"], values["service_id"]))
        keys, values = keys[order], values[order]
        super().__init__(values["service_id"])
        self._addresses = _raw_addresses(keys["address"])
        self._ports: list[int] = keys["port"].tolist()
        self._protocols: list[int] = keys["protocol"].tolist()
        self._kinds: list[int] = values["kind"].tolist()
        self._affinity: list[int] = values["affinity_timeout_s"].tolist()
        is_local = values["flags"] & FrontendFlag.POLICY_LOCAL != 0
        self._is_local: list[bool] = is_local.tolist()
        # seen from this node only a ClusterIP heeds the policy (R50, R51)
        heeds = is_local & (values["kind"] == FrontendKind.CLUSTER_IP)
        counts = np.where(heeds, values["local"]["count"], values["cluster"]["count"])
        self._counts: list[int] = counts.tolist()
        self._node_addresses = _node_addresses(snapshot)

    def affinity_of(self, service_id: int) -> int:
        return max((self._affinity[row] for row in self.rows(service_id)), default=0)

    def of(self, service_id: int) -> list[FrontendView]:
        return [self._view(row) for row in self.rows(service_id)]

    def _view(self, row: int) -> FrontendView:
        address = self._addresses[row]
        on_node = address in (UNSPECIFIED_V4, UNSPECIFIED_V6)
        return FrontendView(
            address="*" if on_node else format_address(address),
            port=self._ports[row],
            protocol=_protocol(self._protocols[row]),
            type=_KINDS.get(self._kinds[row], "?"),
            policy="Local" if self._is_local[row] else "Cluster",
            node_addresses=self._node_addresses[family_of(address)] if on_node else [],
            backends=self._counts[row],
        )


class _Backends(_Groups):
    def __init__(self, readings: Readings, only: Records | None) -> None:
        table = readings.snapshot.backends
        ids = np.flatnonzero(table["flags"])
        if only is not None:
            ids = ids[np.isin(table["service_id"][ids], only)]
        chosen = table[ids]
        order = np.lexsort((chosen["port"], *_words(chosen), chosen["service_id"]))
        chosen, counters = chosen[order], readings.backend_counters[ids[order]]
        super().__init__(chosen["service_id"])
        self._addresses = _raw_addresses(chosen["address"])
        self._ports: list[int] = chosen["port"].tolist()
        self._protocols: list[int] = chosen["protocol"].tolist()
        self._flags: list[int] = chosen["flags"].tolist()
        self._opened: list[int] = counters["opened"].tolist()
        self._active: list[int] = active(counters).tolist()

    def of(self, service_id: int) -> list[BackendView]:
        return [self._view(row) for row in self.rows(service_id)]

    def _view(self, row: int) -> BackendView:
        flags = self._flags[row]
        return BackendView(
            address=format_address(self._addresses[row]),
            port=self._ports[row],
            protocol=_protocol(self._protocols[row]),
            state=_STATES[flags],
            selected=_IS_SELECTED[flags],
            node_local=_IS_ON_NODE[flags],
            opened=self._opened[row],
            active=self._active[row],
        )


def state_of(flags: int) -> str:
    """The state of a backend by its abi.BackendFlag."""
    if flags & BackendFlag.TERMINATING:
        return "terminating"
    return "active" if flags & _SELECTED else "not selected"


# by flags, because arithmetic with IntFlag takes a microsecond, and there may be a million
_STATES = [state_of(flags) for flags in range(256)]
_IS_SELECTED = [bool(flags & _SELECTED) for flags in range(256)]
_IS_ON_NODE = [bool(flags & BackendFlag.ON_NODE) for flags in range(256)]


# ---- columns ----------------------------------------------------------------------------


def _matching(infos: Records, wanted: Wanted) -> Records:
    """Positions of the Service ports that are wanted, in their order for people."""
    mask = np.ones(len(infos), dtype=bool)
    if wanted.namespace is not None:
        mask &= infos["namespace_"] == wanted.namespace.encode()
    if wanted.name is not None:
        mask &= infos["name"] == wanted.name.encode()
    found = np.flatnonzero(mask)
    chosen = infos[found]
    order = np.lexsort(
        (
            chosen["family"],
            chosen["port"],
            chosen["port_name"],
            chosen["name"],
            chosen["namespace_"],
        )
    )
    return found[order]


def _columns(infos: Records) -> Iterator[dict[str, Any]]:
    """Members of ServiceView that struct service_info has, row by row."""
    for namespace, name, port_name, kind, port, protocol, family, endpoints in infos.tolist():
        yield {
            "namespace": text(namespace),
            "name": text(name),
            "port_name": text(port_name),
            "port": port,
            "protocol": _protocol(protocol),
            "family": f"IPv{family}",
            "type": text(kind),
            "endpoints": endpoints,
        }


def _connections(counters: Records) -> list[Connections]:
    columns = ("opened", "refused", "unreachable", "affinity_hits")
    opened, refused, unreachable, hits = (counters[column].tolist() for column in columns)
    return [
        Connections(opened=o, active=a, refused=r, unreachable=u, affinity_hits=h)
        for o, a, r, u, h in zip(
            opened, active(counters).tolist(), refused, unreachable, hits, strict=True
        )
    ]


def _unnamed(
    readings: Readings, service_id: int, frontends: _Frontends, backends: _Backends
) -> ServiceView:
    views = frontends.of(service_id)
    counters = readings.service_counters
    return ServiceView(
        namespace="",
        name=f"#{service_id}",
        port_name="",
        port=0,
        protocol=views[0].protocol if views else "?",
        family="?",
        type="?",
        affinity_timeout_seconds=frontends.affinity_of(service_id),
        endpoints=0,
        connections=_connections(counters[service_id : service_id + 1])[0],
        frontends=views,
        backends=backends.of(service_id),
    )


def _words(records: Records) -> Sequence[Records]:
    """Sort keys for np.lexsort, least significant first."""
    words = records["address"]["word"]
    return [words[:, at] for at in (3, 2, 1, 0)]


def _raw_addresses(addresses: Records) -> list[bytes]:
    raw = np.ascontiguousarray(addresses).tobytes()
    return [raw[at : at + 16] for at in range(0, len(raw), 16)]


def _node_addresses(snapshot: Snapshot) -> dict[int, list[str]]:
    """Addresses NodePorts are served on, by family; loopback last."""
    is_node = snapshot.addresses & AddressFlag.NODE != 0
    keys, flags = snapshot.address_keys[is_node], snapshot.addresses[is_node]
    host_only = flags & AddressFlag.HOST_ONLY
    order = np.lexsort((*[keys["word"][:, at] for at in (3, 2, 1, 0)], host_only))
    found: dict[int, list[str]] = {4: [], 6: []}
    for address in _raw_addresses(keys[order]):
        found[family_of(address)].append(format_address(address))
    return found


def _protocol(number: int) -> str:
    return _PROTOCOLS.get(number, str(number))
