# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: kube-proxy's under their own names, everything else `vipbee_`.

Counters of the datapath are read from the maps at scrape time. Series per Service and
per backend are bounded: the `top` Services with most connections opened, and of those
the backends, `top` again. Whatever else there is adds up in `vipbee_connections_*`.

Nothing here knows the datapath: tables come in as a `Reader`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vipbee.abi import FrontendFlag, FrontendKind
from vipbee.address import format_endpoint
from vipbee.core.snapshot import Snapshot
from vipbee.observe.health import Health
from vipbee.observe.readings import Reader, Readings, active, map_usage, read, reasons, text

DEFAULT_TOP = 100

_SYNC_BUCKETS = [0.001 * 2**n for n in range(15)]  # kube-proxy's
_Families = Iterator[CounterMetricFamily | GaugeMetricFamily]


class AgentMetrics:
    """A registry of its own, and what the agent counts itself.

    `top` bounds the series per Service and per backend; 0 leaves them out.
    """

    def __init__(self, reader: Reader, health: Health | None = None, *, top: int = DEFAULT_TOP):
        self.registry = CollectorRegistry()
        self.problems = 0
        """Problems `vipbee status` shows."""
        self.repairs = 0
        """Entries that audits put right since start."""
        self._any = self._sync_histogram("", "Duration of one programming of the tables.")
        self._full = self._sync_histogram("full_", "The same, of everything.")
        self._partial = self._sync_histogram("partial_", "The same, of what changed only.")
        self._last_sync = Gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the tables were last programmed successfully.",
            registry=self.registry,
        )
        self.registry.register(_TablesCollector(reader, top))
        self.registry.register(_AgentCollector(self, health))

    def observe_sync(self, duration_s: float, *, full: bool = False) -> None:
        """The tables were programmed just now, entirely or for what changed."""
        self._any.observe(duration_s)
        (self._full if full else self._partial).observe(duration_s)
        self._last_sync.set(time.time())

    def _sync_histogram(self, kind: str, documentation: str) -> Histogram:
        name = f"kubeproxy_sync_{kind}proxy_rules_duration_seconds"
        return Histogram(name, documentation, buckets=_SYNC_BUCKETS, registry=self.registry)


class _AgentCollector(Collector):
    def __init__(self, metrics: AgentMetrics, health: Health | None) -> None:
        self._metrics = metrics
        self._health = health

    def collect(self) -> _Families:
        problems = "Objects not served, or not entirely as written; see vipbee status."
        yield GaugeMetricFamily("vipbee_problems", problems, self._metrics.problems)
        repairs = "Entries an audit put right because somebody else had changed them."
        yield CounterMetricFamily("vipbee_audit_repairs", repairs, value=self._metrics.repairs)
        if self._health is None:
            return
        for probe in ("healthz", "livez"):
            answers = CounterMetricFamily(
                f"kubeproxy_proxy_{probe}", f"Answers of /{probe}.", labels=["code"]
            )
            for (given, status), count in sorted(self._health.answers.items()):
                if given == probe:
                    answers.add_metric([str(status)], count)
            yield answers


class _TablesCollector(Collector):
    def __init__(self, reader: Reader, top: int) -> None:
        self._reader = reader
        self._top = top

    def describe(self) -> _Families:
        return iter(())  # registering must not read the maps

    def collect(self) -> _Families:
        readings = read(self._reader)
        yield from self._maps(readings.snapshot)
        counter = CounterMetricFamily(
            "vipbee_reasons", "Connections and datagrams not simply translated.", labels=["reason"]
        )
        for reason, count in reasons(self._reader).items():
            counter.add_metric([reason], count)
        yield counter
        yield _no_local_endpoints(readings.snapshot)
        yield from _totals(readings)
        if self._top:
            chosen = _busiest(readings, self._top)
            yield from _per_service(readings, chosen)
            yield from _per_backend(readings, chosen, self._top)

    def _maps(self, snapshot: Snapshot) -> _Families:
        entries = GaugeMetricFamily("vipbee_map_entries", "Entries in use.", labels=["map"])
        capacity = GaugeMetricFamily("vipbee_map_capacity", "Entries that fit.", labels=["map"])
        pressure = GaugeMetricFamily(
            "vipbee_map_pressure_ratio", "Entries ÷ capacity.", labels=["map"]
        )
        for usage in map_usage(self._reader, snapshot):
            entries.add_metric([usage.name], usage.entries)
            capacity.add_metric([usage.name], usage.capacity)
            pressure.add_metric([usage.name], usage.pressure)
        yield from (entries, capacity, pressure)


def _no_local_endpoints(snapshot: Snapshot) -> GaugeMetricFamily:
    """Service ports with policy Local and endpoints, but none on this node (R107)."""
    found = GaugeMetricFamily(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Service ports with policy Local and endpoints on other nodes only.",
        labels=["traffic_policy"],
    )
    frontends = snapshot.frontends
    lonely = frontends[
        (frontends["flags"] & FrontendFlag.POLICY_LOCAL != 0)
        & (frontends["local"]["count"] == 0)
        & (frontends["cluster"]["count"] > 0)
    ]
    internal = lonely["kind"] == FrontendKind.CLUSTER_IP
    for policy, chosen in (("internal", internal), ("external", ~internal)):
        found.add_metric([policy], len(np.unique(lonely["service_id"][chosen])))
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
        str(info["family"]),
    ]


def _per_service(readings: Readings, chosen: np.ndarray) -> _Families:
    labels = ["namespace", "service", "port", "family"]
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
    labels = ["namespace", "service", "port", "family", "backend"]
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
