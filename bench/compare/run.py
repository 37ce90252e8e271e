# SPDX-License-Identifier: Apache-2.0
"""One size after the other: program everybody, let them take turns, clear."""

from __future__ import annotations

from collections.abc import Callable

from bench.compare import traffic
from bench.compare.changes import measure_changes
from bench.compare.depth import Depth
from bench.compare.proxies import CannotError, Direct, Programmed, Proxy
from bench.compare.result import PROGRAM, Missing, Result, measurement
from bench.compare.services import Cluster
from bench.compare.vipbee_agent import VipbeeAgent
from bench.compare.watching import wait_for_quiet_kernel
from bench.sockets.hooks import statistics_enabled

_TOO_SLOW = 1.5
"""How many limits a proxy must be expected to take before a size is not even tried."""


class Run:
    """Puts what it finds into `result`."""

    def __init__(self, depth: Depth, result: Result, progress: Callable[[str], None]) -> None:
        self._depth, self._result, self._progress = depth, result, progress
        self._took: dict[str, tuple[int, float]] = {}  # key → last size, seconds

    def measure(self, proxies: list[Proxy], size: int, family: int) -> None:
        what = f"{size:,} Services, IPv{family}"
        clusters = {p.key: Cluster(size, family, p.site.servers(family)) for p in proxies}
        serving = []
        try:
            for proxy in proxies:
                self._progress(f"{what}: programming {proxy.title}")
                if self._program(proxy, clusters[proxy.key]):
                    serving.append(proxy)
            self._traffic(serving, clusters, what)
            if family == 4 and size in self._depth.change_sizes:
                for proxy in serving:
                    self._changes(proxy, clusters[proxy.key], what)
            for proxy in serving:
                if isinstance(proxy, VipbeeAgent):
                    self._programs(proxy, clusters[proxy.key])
        finally:
            for proxy in proxies:
                proxy.clear()

    def _program(self, proxy: Proxy, cluster: Cluster) -> bool:
        """False if it cannot; why is noted."""
        try:
            self._refuse_hopeless(proxy, cluster)
            before = wait_for_quiet_kernel()
            programmed = proxy.program(cluster, self._depth.limit_s)
            kernel_mib = wait_for_quiet_kernel() - before
        except CannotError as error:
            self._miss(PROGRAM, proxy, cluster, str(error))
            proxy.clear()
            return False
        self._took[proxy.key] = (cluster.services, programmed.took_s)
        self._note_programming(proxy, cluster, programmed, kernel_mib)
        return True

    def _refuse_hopeless(self, proxy: Proxy, cluster: Cluster) -> None:
        if proxy.key not in self._took:
            return
        size, took_s = self._took[proxy.key]
        if size >= 1_000 and took_s * cluster.services / size > _TOO_SLOW * self._depth.limit_s:
            raise CannotError(
                f"not tried: it took {took_s:.0f} s for {size:,} Services, and "
                f"{self._depth.limit_s:.0f} s are allowed"
            )

    def _note_programming(
        self, proxy: Proxy, cluster: Cluster, programmed: Programmed, kernel_mib: float
    ) -> None:
        entries = proxy.entries()
        found = [("rules", "", entries.rules), ("map_entries", "", entries.map_entries)]
        if not isinstance(proxy, Direct):
            found += [
                (PROGRAM, "s", programmed.took_s),
                ("program_cpu", "s", programmed.cpu_s),
                ("control_plane_peak", "MiB", programmed.peak_mib),
                ("kernel_memory", "MiB", max(0.0, kernel_mib)),
            ]
            if programmed.sync_s is not None:
                found.append(("program_sync", "s", programmed.sync_s))
            else:
                self._miss("program_sync", proxy, cluster, "it gave no account of its own")
        for figure, unit, value in found:
            self._note(figure, proxy, cluster, unit, float(value))

    def _note(
        self, figure: str, proxy: Proxy, cluster: Cluster, unit: str, value: float, place: str = ""
    ) -> None:
        self._result.measurements.append(
            measurement(figure, proxy.key, cluster.services, cluster.family, place, unit, [value])
        )

    def _traffic(self, serving: list[Proxy], clusters: traffic.Clusters, what: str) -> None:
        size = next(iter(clusters.values())).services
        count = self._depth.count
        tasks = [*traffic.connect_tasks(count), traffic.resolve_task(count)]
        tasks.append(traffic.paced_task(count // 4))
        if size in self._depth.long_sizes:
            tasks += [*traffic.long_tasks(count), *traffic.outside_tasks(count)]
        if size == self._depth.beside_size:
            tasks += traffic.beside_tasks(count)
        measured, missing = traffic.take_turns(
            serving,
            clusters,
            tasks,
            rounds=self._depth.rounds,
            progress=lambda turn: self._progress(f"{what}: {turn}"),
        )
        self._result.measurements += measured
        self._result.missing += missing

    def _changes(self, proxy: Proxy, cluster: Cluster, what: str) -> None:
        if isinstance(proxy, Direct):
            return
        self._progress(f"{what}: endpoint changes, {proxy.title}")
        try:
            self._result.measurements.append(measure_changes(proxy, cluster, self._depth.changes))
        except CannotError as error:
            self._miss("change", proxy, cluster, str(error))

    def _programs(self, proxy: VipbeeAgent, cluster: Cluster) -> None:
        """Nanoseconds a run of each program; what the kernel's clock takes is in it."""
        tasks = [*traffic.connect_tasks(500), traffic.resolve_task(500)]
        if proxy.serves_packets:
            tasks += traffic.outside_tasks(500)
        with statistics_enabled():
            before = proxy.program_runs()
            for task in tasks:
                task.run(proxy, cluster)
            after = proxy.program_runs()
        for name, (spent_ns, runs) in after.items():
            spent_ns, runs = spent_ns - before[name][0], runs - before[name][1]
            if runs >= 500:
                self._note("program_run", proxy, cluster, "ns", spent_ns / runs, name)

    def _miss(self, figure: str, proxy: Proxy, cluster: Cluster, why: str) -> None:
        self._progress(f"{proxy.title}: {why}")
        self._result.missing.append(
            Missing(figure, proxy.key, cluster.services, cluster.family, why)
        )
