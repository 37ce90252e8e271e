# SPDX-License-Identifier: Apache-2.0
"""What the agent itself counts: kube-proxy's metrics under their own names (R106–R109), and more.

Both families are programmed together, so one step is observed for each of them, as two
proxiers of kube-proxy would on a dual-stack node. The maps are table_metrics.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vipbee.core.change_log import ChangeLog, Counts, Trigger
from vipbee.core.request_counts import RequestCounts
from vipbee.observe.health import Health
from vipbee.observe.table_metrics import OpenReader, TablesCollector

DEFAULT_TOP = 100

FAMILIES = (4, 6)
_SYNC_BUCKETS = [0.001 * 2**n for n in range(15)]  # these two are kube-proxy's
_NETWORK_BUCKETS = [
    *(0.25, 0.5),
    *(float(n) for n in range(1, 60)),
    *(float(n) for n in range(60, 120, 5)),
    *(float(n) for n in range(120, 301, 30)),
]
_EVENT_BUCKETS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]
_Families = Iterator[CounterMetricFamily | GaugeMetricFamily]


class AgentMetrics:
    """A registry of its own, and what the agent counts itself.

    `top` bounds the series per Service and per backend; 0 leaves them out.
    """

    def __init__(
        self,
        open_reader: OpenReader,
        health: Health | None = None,
        changes: ChangeLog | None = None,
        *,
        top: int = DEFAULT_TOP,
    ):
        # no second series for each, which kube-proxy does not have
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.problems = 0
        """Problems `vipbee status` shows."""
        self.repairs = 0
        """Entries that audits put right since start."""
        self.requests = RequestCounts()
        """Of the API server; whoever asks it counts here."""
        self._any = self._sync_histogram("", "Duration of one programming of the tables.")
        self._full = self._sync_histogram("full_", "The same, of everything.")
        self._partial = self._sync_histogram("partial_", "The same, of what changed only.")
        self._last_sync = self._moment("last", "When the tables were last programmed successfully.")
        self._last_queued = self._moment("last_queued", "When something was last to be programmed.")
        self._network = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a pod, as its EndpointSlice tells, to the tables.",
            labelnames=["ip_family"],
            buckets=_NETWORK_BUCKETS,
            registry=self.registry,
        )
        self._events = Histogram(
            "vipbee_event_to_programmed_seconds",
            "From an event read and decoded to the tables that follow from it.",
            buckets=_EVENT_BUCKETS,
            registry=self.registry,
        )
        for histogram in (self._any, self._full, self._partial, self._network):
            for family in FAMILIES:  # there from the beginning, so that rates can be formed
                histogram.labels(f"IPv{family}")
        ProcessCollector(registry=self.registry)  # memory, CPU, file descriptors, as everybody
        self.registry.register(TablesCollector(open_reader, top))
        self.registry.register(_AgentCollector(self, health))
        if changes is not None:
            self.registry.register(_ChangesCollector(changes))

    def queued(self, unix_s: float) -> None:
        """There is something to program."""
        for family in FAMILIES:
            self._last_queued.labels(f"IPv{family}").set(unix_s)

    def observe_sync(self, duration_s: float, *, full: bool = False) -> None:
        """The tables were programmed just now, entirely or for what changed."""
        now = time.time()
        for family in (f"IPv{number}" for number in FAMILIES):
            self._any.labels(family).observe(duration_s)
            (self._full if full else self._partial).labels(family).observe(duration_s)
            self._last_sync.labels(family).set(now)

    def observe_triggers(self, triggers: Iterable[Trigger], unix_s: float) -> None:
        """What led to these is in force (R108); clocks of two machines may disagree."""
        for family, since in triggers:
            self._network.labels(f"IPv{family}").observe(max(unix_s - since, 0.0))

    def observe_events(self, received_s: Iterable[float], now_s: float) -> None:
        """What was received then is in force; both by time.monotonic()."""
        for received in received_s:
            self._events.observe(now_s - received)

    def _sync_histogram(self, kind: str, documentation: str) -> Histogram:
        return Histogram(
            f"kubeproxy_sync_{kind}proxy_rules_duration_seconds",
            documentation,
            labelnames=["ip_family"],
            buckets=_SYNC_BUCKETS,
            registry=self.registry,
        )

    def _moment(self, which: str, documentation: str) -> Gauge:
        return Gauge(
            f"kubeproxy_sync_proxy_rules_{which}_timestamp_seconds",
            documentation,
            labelnames=["ip_family"],
            registry=self.registry,
        )


class _AgentCollector(Collector):
    def __init__(self, metrics: AgentMetrics, health: Health | None) -> None:
        self._metrics = metrics
        self._health = health

    def collect(self) -> _Families:
        problems = "Objects not served, or not entirely as written; see vipbee status."
        yield GaugeMetricFamily("vipbee_problems", problems, self._metrics.problems)
        repairs = "Entries an audit put right because somebody else had changed them."
        yield CounterMetricFamily("vipbee_audit_repairs", repairs, value=self._metrics.repairs)
        asked = "Requests to the API server, by answer; <error>: none came."
        requests = CounterMetricFamily(
            "rest_client_requests", asked, labels=["code", "host", "method"]
        )
        for request, count in sorted(self._metrics.requests.items()):
            requests.add_metric(request, count)
        yield requests
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


class _ChangesCollector(Collector):
    def __init__(self, changes: ChangeLog) -> None:
        self._changes = changes

    def collect(self) -> _Families:
        yield from _changes("endpoint", "EndpointSlices", self._changes.endpoints)
        yield from _changes("service", "Services", self._changes.services)


def _changes(kind: str, what: str, counts: Counts) -> _Families:
    name, labels = f"kubeproxy_sync_proxy_rules_{kind}_changes", ["ip_family"]
    pending = GaugeMetricFamily(f"{name}_pending", f"Changed {what} not in force.", labels=labels)
    total = CounterMetricFamily(f"{name}_total", f"Changed {what} since start.", labels=labels)
    for family in FAMILIES:
        pending.add_metric([f"IPv{family}"], counts.pending[family])
        total.add_metric([f"IPv{family}"], counts.total[family])
    yield from (pending, total)
