# SPDX-License-Identifier: Apache-2.0
"""vipbee itself: the real agent, fed by an API server in its own site."""

from __future__ import annotations

import os
import time
import urllib.request
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench.compare.place import Site
from bench.compare.proxies import CannotError, Entries, Programmed, count_rules, wait_until_served
from bench.compare.services import Cluster, Port, slice_object
from bench.compare.watching import Watched
from bench.sockets.hooks import run_time
from tests.support.apiserver.placed import PlacedApiServer
from vipbee.datapath import syscall
from vipbee.lab.errors import LabError

METRICS_PORT = 10249
_SYNC = "kubeproxy_sync_proxy_rules_duration_seconds_sum"


class VipbeeAgent:
    """`sockets`, `packets`: which of the two layers serves."""

    def __init__(self, site: Site, key: str, title: str, *, sockets: bool, packets: bool) -> None:
        self.key, self.title, self.site = key, title, site
        self.serves_packets = packets
        self._layers = {"socket-lb": sockets, "packet-lb": packets}
        self._server = PlacedApiServer(site.lab.node("node-2"), Path(site.lab.directory))
        self._cluster: Cluster | None = None

    def program(self, cluster: Cluster, limit_s: float) -> Programmed:
        self._cluster = cluster
        self._server.start(cluster.objects() | {"nodes": [node_object(self.site)]})
        agent = self.site.lab.agent("node-1")
        agent.kubeconfig = self._server.kubeconfig()
        agent.options = (f"--config={self._write_config(cluster)}",)
        started = time.monotonic()
        agent.start()
        watched = Watched(agent.process_id)
        try:
            agent.wait_ready(timeout_s=limit_s)
            wait_until_served(
                self.site, cluster, limit_s, ended=lambda: None if agent.is_running else "by itself"
            )
            took_s = time.monotonic() - started
        except LabError as error:
            raise CannotError(str(error)) from error
        finally:
            usage = watched.stop()
        return Programmed(took_s, self._sync_s(), usage.cpu_s, usage.peak_mib)

    def entries(self) -> Entries:
        found = msgspec.json.decode(
            self.site.lab.agent("node-1").vipbee(["status", "-o", "json"]).stdout
        )
        # what counters and state of connections take is not a matter of the Services
        tables = ("frontends", "addresses", "slots", "backends", "services")
        used = {row["name"]: row["entries"] for row in found["maps"] if row["name"] in tables}
        return Entries(count_rules(self.site), sum(used.values()))

    def change(self, before: Port, after: Port) -> int:
        assert self._cluster is not None
        changed = slice_object([after], self._cluster.family, self._cluster.servers)
        started = time.monotonic_ns()
        self._server.put("endpointslices", changed)
        return started

    def program_runs(self) -> dict[str, tuple[int, int]]:
        """(nanoseconds, runs) of every program, while the kernel keeps statistics."""
        agent = self.site.lab.agent("node-1")
        found = {}
        for path in sorted(agent.bpf_root.glob("v*/programs/*")):
            fd = syscall.obj_get(str(path))
            try:
                found[path.name] = run_time(fd)
            finally:
                os.close(fd)
        return found

    def clear(self) -> None:
        agent = self.site.lab.agent("node-1")
        agent.kill()
        agent.vipbee(["cleanup"])
        self._server.kill()

    def _write_config(self, cluster: Cluster) -> Path:
        """Map sizes are those of the machine unless the cluster needs more."""
        needed = 2 * cluster.services + 4096
        sizes = dict.fromkeys(("frontends", "addresses", "services"), needed)
        sizes |= dict.fromkeys(("slots", "backends"), 4 * cluster.endpoints * needed)
        config: dict[str, object] = dict(self._layers)
        config["metrics-bind-address"] = f"127.0.0.1:{METRICS_PORT}"
        if cluster.services > 10_000:
            config["map-sizes"] = sizes
        path = Path(self.site.lab.directory) / "agent.json"
        path.write_bytes(msgspec.json.encode(config))
        return path

    def _sync_s(self) -> float | None:
        """Seconds of its first programming, by its own account; both families have the same."""
        assert self._cluster is not None
        return read_metric(self.site, METRICS_PORT, _SYNC, self._cluster.family)


def node_object(site: Site) -> dict[str, object]:
    """The Node that the proxy under test runs on."""
    addresses = [{"type": "InternalIP", "address": site.node.address(family)} for family in (4, 6)]
    return {"metadata": {"name": site.node.name}, "status": {"addresses": addresses}}


def read_metric(site: Site, port: int, name: str, family: int) -> float | None:
    """A proxy's metric of one family, served in the node; None if it is not there (yet)."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    try:
        text = site.node.inside(fetch)
    except OSError:
        return None
    return sample_of(text, name, family)


def sample_of(text: str, name: str, family: int) -> float | None:
    """Not the sum over families: who programs both at once says the same of each."""
    for metric in text_string_to_metric_families(text):
        for sample in metric.samples:
            if sample.name == name and sample.labels.get("ip_family") == f"IPv{family}":
                return float(sample.value)
    return None
