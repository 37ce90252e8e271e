# SPDX-License-Identifier: Apache-2.0
"""The same traffic through every proxy: all take turns in every round.

A round asks each proxy once for each task, in an order that rotates, so that a slow minute
of the machine is everybody's; ratios are taken within a round.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.compare.place import Sample
from bench.compare.proxies import Direct, Proxy, target
from bench.compare.result import Measurement, Missing, measurement
from bench.compare.services import DNS_PORT, NODE_PORTS, TARGET_PORT, Cluster

Clusters = Mapping[str, Cluster]  # by key of the proxy: addresses are alike, sites are not
PACED_PER_S = 1000
BULK_MS = 300


@dataclass(frozen=True, slots=True)
class Task:
    """One run of the client. `figures`: name, unit, and how it follows from a sample."""

    name: str
    place: str
    run: Callable[[Proxy, Cluster], Sample | float | None]  # None: this proxy does not serve it
    figures: tuple[tuple[str, str, Callable[[Sample], float]], ...]
    unserved: str = ""


def _latency(name: str) -> tuple[tuple[str, str, Callable[[Sample], float]], ...]:
    return (
        (f"{name}_p50", "µs", lambda sample: sample.p50_ns / 1e3),
        (f"{name}_p99", "µs", lambda sample: sample.p99_ns / 1e3),
        (f"{name}_rate", "1/s", lambda sample: sample.per_second),
    )


def connect_tasks(count: int) -> list[Task]:
    """Connect and one byte each way, through the first, the middle and the last Service."""

    def connect(place: str) -> Callable[[Proxy, Cluster], Sample]:
        return lambda proxy, cluster: proxy.site.load(
            "connect", count, *target(proxy, cluster, place)
        )

    return [
        Task("connect", place, connect(place), _latency("connect"))
        for place in ("first", "middle", "last")
    ]


def paced_task(count: int) -> Task:
    """The open loop: what waits behind something slow is counted as slow."""
    return Task(
        "paced",
        "last",
        lambda proxy, cluster: proxy.site.load(
            "pace", count, *target(proxy, cluster, "last"), str(PACED_PER_S)
        ),
        _latency("paced")[:2],
    )


def resolve_task(count: int) -> Task:
    """A new UDP socket for each query, as resolvers do."""

    def resolve(proxy: Proxy, cluster: Cluster) -> Sample:
        address, port = target(proxy, cluster, "last")
        port = port if isinstance(proxy, Direct) else DNS_PORT
        return proxy.site.load("resolve", count, address, port)

    return Task("resolve", "last", resolve, _latency("resolve"))


def long_tasks(count: int) -> list[Task]:
    """One connection for all requests; and as much as goes through one."""
    return [
        Task(
            "converse",
            "last",
            lambda proxy, cluster: proxy.site.load(
                "converse", count, *target(proxy, cluster, "last")
            ),
            _latency("converse"),
        ),
        Task(
            "bulk",
            "last",
            lambda proxy, cluster: proxy.site.bulk(BULK_MS, *target(proxy, cluster, "last")),
            (("bulk", "MB/s", lambda sample: 0.0),),
        ),
    ]


def outside_tasks(count: int) -> list[Task]:
    """From outside by NodePort; direct: by plain routing through the same node."""

    def dial(place: str) -> Callable[[Proxy, Cluster], Sample | None]:
        def run(proxy: Proxy, cluster: Cluster) -> Sample | None:
            if isinstance(proxy, Direct):
                servers = cluster.servers
                address = servers.local if place == "local" else servers.remote
                return proxy.site.load("connect", count, address, TARGET_PORT, outside=True)
            if not getattr(proxy, "serves_packets", True):
                return None
            node = proxy.site.node.address(cluster.family)
            return proxy.site.load("connect", count, node, NODE_PORTS[place], outside=True)

        return run

    return [
        Task(
            "node_port",
            place,
            dial(place),
            _latency("node_port"),
            unserved="the socket layer alone sees no client outside",
        )
        for place in NODE_PORTS
    ]


def beside_tasks(count: int) -> list[Task]:
    """Traffic that uses no Service: what a proxy costs everybody else."""
    return [
        Task(
            "beside",
            "pod to pod",
            lambda proxy, cluster: proxy.site.load(
                "connect", count, cluster.servers.local, TARGET_PORT
            ),
            _latency("beside"),
        ),
        Task(
            "beside",
            "outside to pod",
            lambda proxy, cluster: proxy.site.load(
                "connect", count, cluster.servers.local, TARGET_PORT, outside=True
            ),
            _latency("beside"),
        ),
    ]


def take_turns(
    proxies: list[Proxy],
    clusters: Clusters,
    tasks: list[Task],
    *,
    rounds: int,
    progress: Callable[[str], None],
) -> tuple[list[Measurement], list[Missing]]:
    """Every task with every proxy, `rounds` times, after one round that warms up."""
    seen: dict[tuple[int, str], list[Sample | float]] = {}
    missing: dict[tuple[str, str], Missing] = {}
    for turn in range(rounds + 1):
        progress(f"round {turn} of {rounds}" if turn else "warming up")
        for offset in range(len(proxies)):
            proxy = proxies[(turn + offset) % len(proxies)]
            cluster = clusters[proxy.key]
            for number, task in enumerate(tasks):
                key = (task.name, proxy.key)
                try:
                    sample = task.run(proxy, cluster)
                    why = task.unserved
                except subprocess.CalledProcessError as error:
                    sample, why = None, error.stderr.strip()
                except subprocess.TimeoutExpired:
                    sample, why = None, "the client did not end"
                if sample is None:
                    missing[key] = Missing(
                        task.name, proxy.key, cluster.services, cluster.family, why
                    )
                elif turn:
                    seen.setdefault((number, proxy.key), []).append(sample)
    found = []
    for (number, key), samples in seen.items():
        direct = seen.get((number, "direct"), [])
        found += _measurements(tasks[number], key, clusters[key], samples, direct)
    return found, list(missing.values())


def _measurements(
    task: Task,
    key: str,
    cluster: Cluster,
    samples: list[Sample | float],
    direct: list[Sample | float],
) -> list[Measurement]:
    comparable = direct if len(direct) == len(samples) and key != "direct" else []
    found = []
    for figure, unit, value_of in task.figures:

        def value(sample: Sample | float, value_of: Callable[[Sample], float] = value_of) -> float:
            return value_of(sample) if isinstance(sample, Sample) else sample / 1e6

        found.append(
            measurement(
                figure,
                key,
                cluster.services,
                cluster.family,
                task.place,
                unit,
                [value(sample) for sample in samples],
                direct=[value(sample) for sample in comparable],
                failed=sum(sample.failed for sample in samples if isinstance(sample, Sample)),
            )
        )
    return found
