# SPDX-License-Identifier: Apache-2.0
"""Metrics read from the maps at scrape time.

Series per Service and per backend are bounded: the `top` Services with most connections
opened, and of those the backends, `top` again. Whatever else there is adds up in
`vipbee_connections_*`. Nothing here knows the datapath: tables come in as a `Reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vipbee.abi import FrontendFlag, FrontendKind
from vipbee.address import format_endpoint
from vipbee.core.snapshot import Snapshot
from vipbee.errors import EnvironmentUnusable, KernelError
from vipbee.observe.readings import Reader, Readings, active, map_usage, read, reasons, text

_Families = Iterator[CounterMetricFamily | GaugeMetricFamily]
OpenReader = Callable[[], AbstractContextManager[Reader]]
"""Opens the tables for one scrape, which runs in a thread beside the agent."""


class TablesCollector(Collector):
    """`top` bounds the series per Service and per backend; 0 leaves them out."""

    def __init__(self, open_reader: OpenReader, top: int) -> None:
        self._open_reader = open_reader
        self._top = top

    def describe(self) -> _Families:
        return iter(())  # registering must not read the maps

    def collect(self) -> _Families:
        try:
            with self._open_reader() as reader:
                readings = read(reader)
                maps, counted = list(_maps(reader, readings.snapshot)), _reasons(reader)
        except (KernelError, EnvironmentUnusable):
            return  # pins are gone, the agent puts them back: only its own metrics meanwhile
        yield from maps
        yield counted
        yield _no_local_endpoints(readings.snapshot)
        yield from _totals(readings)
        if self._top:
            chosen = _busiest(readings, self._top)
            yield from _per_service(readings, chosen)
            yield from _per_backend(readings, chosen, self._top)


def _maps(reader: Reader, snapshot: Snapshot) -> _Families:
    entries = GaugeMetricFamily("vipbee_map_entries", "Entries in use.", labels=["map"])
    capacity = GaugeMetricFamily("vipbee_map_capacity", "Entries that fit.", labels=["map"])
    pressure = GaugeMetricFamily("vipbee_map_pressure_ratio", "Entries ÷ capacity.", labels=["map"])
    for usage in map_usage(reader, snapshot):
        entries.add_metric([usage.name], usage.entries)
        capacity.add_metric([usage.name], usage.capacity)
        pressure.add_metric([usage.name], usage.pressure)
    yield from (entries, capacity, pressure)


def _reasons(reader: Reader) -> CounterMetricFamily:
    counter = CounterMetricFamily(
        "vipbee_reasons",
        "Dropped, refused or not simply translated; `vipbee status -o wide` explains each.",
        labels=["reason"],
    )
    for reason, count in reasons(reader).items():
        counter.add_metric([reason], count)
    return counter


def _no_local_endpoints(snapshot: Snapshot) -> GaugeMetricFamily:
    """Service ports with policy Local and endpoints, but none on this node (R107)."""
    found = GaugeMetricFamily(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Service ports with policy Local and endpoints on other nodes only.",
        labels=["traffic_policy", "ip_family"],
    )
    frontends = snapshot.frontends
    families = np.zeros(int(frontends["service_id"].max(initial=0)) + 1, np.uint8)
    known = snapshot.service_ids < len(families)
    families[snapshot.service_ids[known]] = snapshot.services["family"][known]
    lonely = frontends[
        (frontends["flags"] & FrontendFlag.POLICY_LOCAL != 0)
        & (frontends["local"]["count"] == 0)
        & (frontends["cluster"]["count"] > 0)
    ]
    internal = lonely["kind"] == FrontendKind.CLUSTER_IP
    for policy, chosen in (("internal", internal), ("external", ~internal)):
        service_ids = np.unique(lonely["service_id"][chosen])
        for family in (4, 6):
            count = np.count_nonzero(families[service_ids] == family)
            found.add_metric([policy, f"IPv{family}"], int(count))
    return found


def _totals(readings: Readings) -> _Families:
    counters = readings.service_counters[readings.snapshot.service_ids]
    opened = "Connections through any Service since it was programmed."
    yield CounterMetricFamily("vipbee_connections_opened", opened, int(counters["opened"].sum()))
    active_now = "Connections through any Service now."
    yield GaugeMetricFamily("vipbee_connections_active", active_now, int(active(counters).sum()))


def _busiest(readings: Readings, top: int) -> np.ndarray:
    """Positions in the services table of the `top` Service ports with most connections."""
    opened = readings.service_counters["opened"][readings.snapshot.service_ids]
    order = np.argsort(opened, kind="stable")[::-1]
    return order[:top]


def _labels(readings: Readings, position: int) -> list[str]:
    info = readings.snapshot.services[position]
    return [
        text(info["namespace_"]),
        text(info["name"]),
        text(info["port_name"]),
        f"IPv{info['family']}",
    ]


def _per_service(readings: Readings, chosen: np.ndarray) -> _Families:
    labels = ["namespace", "service", "port", "ip_family"]
    counters = readings.service_counters[readings.snapshot.service_ids[chosen]]
    opened = CounterMetricFamily(
        "vipbee_service_connections_opened", "Connections opened.", labels=labels
    )
    refused = CounterMetricFamily(
        "vipbee_service_connections_refused", "Connections refused: no endpoint.", labels=labels
    )
    open_now = GaugeMetricFamily(
        "vipbee_service_connections_active", "Connections open.", labels=labels
    )
    for position, row, now in zip(chosen, counters, active(counters), strict=True):
        values = _labels(readings, int(position))
        opened.add_metric(values, int(row["opened"]))
        refused.add_metric(values, int(row["refused"]) + int(row["unreachable"]))
        open_now.add_metric(values, int(now))
    yield from (opened, refused, open_now)


def _per_backend(readings: Readings, chosen: np.ndarray, top: int) -> _Families:
    labels = ["namespace", "service", "port", "ip_family", "backend"]
    opened = CounterMetricFamily(
        "vipbee_backend_connections_opened", "Connections opened.", labels=labels
    )
    open_now = GaugeMetricFamily(
        "vipbee_backend_connections_active", "Connections open.", labels=labels
    )
    backends, counters = readings.snapshot.backends, readings.backend_counters
    positions = {int(readings.snapshot.service_ids[p]): int(p) for p in chosen}
    theirs = np.isin(backends["service_id"], list(positions)) & (backends["flags"] != 0)
    ids = np.flatnonzero(theirs)
    for backend_id in ids[np.argsort(counters["opened"][ids], kind="stable")[::-1]][:top]:
        backend, row = backends[backend_id], counters[backend_id : backend_id + 1]
        name = format_endpoint(backend["address"].tobytes(), int(backend["port"]))
        values = [*_labels(readings, positions[int(backend["service_id"])]), name]
        opened.add_metric(values, int(row["opened"][0]))
        open_now.add_metric(values, int(active(row)[0]))
    yield from (opened, open_now)
