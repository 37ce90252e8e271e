# SPDX-License-Identifier: Apache-2.0
"""The real kube-proxy, fed by an API server in its own site: `--kube-proxy PATH`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.compare.place import Site
from bench.compare.proxies import (
    Entries,
    Programmed,
    count_rules,
    said_at_the_end,
    wait_until_served,
)
from bench.compare.services import POD_CIDR, Cluster, Port, slice_object
from bench.compare.vipbee_agent import node_object, read_metric
from bench.compare.watching import Watched
from tests.support.apiserver.placed import PlacedApiServer

METRICS_PORT, HEALTHZ_PORT = 10249, 10256
_SYNC = "kubeproxy_sync_proxy_rules_duration_seconds_sum"
_ACCOUNT_TIMEOUT_S = 30.0
_IPTABLES = ("iptables", "iptables-save", "iptables-restore")


class KubeProxy:
    """`mode`: "nftables" or "iptables"; `backend`, of iptables: "legacy" or "nft"."""

    def __init__(
        self, site: Site, key: str, title: str, binary: Path, mode: str, backend: str = "nft"
    ) -> None:
        self.key, self.title, self.site = key, title, site
        self._binary, self._mode, self._backend = binary, mode, backend
        self._server = PlacedApiServer(site.lab.node("node-2"), Path(site.lab.directory))
        self._process: subprocess.Popen[str] | None = None
        self._cluster: Cluster | None = None

    def program(self, cluster: Cluster, limit_s: float) -> Programmed:
        self._cluster = cluster
        self._server.start(cluster.objects() | {"nodes": [node_object(self.site)]})
        log = Path(self.site.lab.directory) / "logs" / "kube-proxy.log"
        log.unlink(missing_ok=True)
        started = time.monotonic()
        process = self._process = self.site.node.start_daemon(self._command(), log=log)
        watched = Watched(process.pid)
        try:
            wait_until_served(
                self.site, cluster, limit_s, ended=lambda: said_at_the_end(process, log)
            )
            took_s = time.monotonic() - started
        finally:
            usage = watched.stop()
        return Programmed(took_s, self._sync_s(), usage.cpu_s, usage.peak_mib)

    def entries(self) -> Entries:
        elements = 0
        if self._mode == "nftables":
            listed = self.site.node.run(["nft", "-nn", "list", "ruleset"], timeout_s=120).stdout
            elements = sum(
                line.count(" : goto ") + line.count(" . tcp . ") * (" : goto " not in line)
                for line in listed.splitlines()
            )
        return Entries(count_rules(self.site), elements)

    def change(self, before: Port, after: Port) -> int:
        assert self._cluster is not None
        changed = slice_object([after], self._cluster.family, self._cluster.servers)
        started = time.monotonic_ns()
        self._server.put("endpointslices", changed)
        return started

    def clear(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.site.node.run(
                [*self._environment(), str(self._binary), "--cleanup"], timeout_s=120
            )
        self._server.kill()

    def _sync_s(self) -> float | None:
        """Seconds of its first sync, by its own account, which comes when that is over.

        The kernel serves before: nft has committed, but not ended.
        """
        assert self._cluster is not None
        deadline = time.monotonic() + _ACCOUNT_TIMEOUT_S
        while True:
            found = read_metric(self.site, METRICS_PORT, _SYNC, self._cluster.family)
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _command(self) -> list[str]:
        assert self._cluster is not None
        return [
            *self._environment(),
            str(self._binary),
            f"--kubeconfig={self._server.kubeconfig()}",
            f"--proxy-mode={self._mode}",
            f"--cluster-cidr={POD_CIDR[self._cluster.family]}",
            f"--hostname-override={self.site.node.name}",
            "--nodeport-addresses=primary",
            f"--healthz-bind-address=127.0.0.1:{HEALTHZ_PORT}",
            f"--metrics-bind-address=127.0.0.1:{METRICS_PORT}",
            "--kube-api-content-type=application/json",
            # sysctls that a network namespace does not have
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]

    def _environment(self) -> list[str]:
        """`env` with the iptables that was asked for first in the search path."""
        directory = Path(self.site.lab.directory) / f"iptables-{self._backend}"
        directory.mkdir(exist_ok=True)
        for name in _IPTABLES:
            for family in ("", "6"):
                called = name.replace("iptables", f"ip{family}tables")
                real = called.replace("tables", f"tables-{self._backend}")
                found = shutil.which(real, path="/usr/sbin:/sbin")
                link = directory / called
                if found and not link.is_symlink():
                    link.symlink_to(found)
        path = f"{directory}:/usr/sbin:/sbin:{os.environ.get('PATH', '')}"
        return ["env", f"PATH={path}", "KUBE_FEATURE_WatchListClient=false"]
