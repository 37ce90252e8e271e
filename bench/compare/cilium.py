# SPDX-License-Identifier: Apache-2.0
"""Cilium's agent as a replacement of kube-proxy, without a cluster: `--cilium-agent PATH`.

Its Services come from a file, as it needs no API server then; of that a change is the file written
anew. It is not what connects the pods here: their devices are given to it as if they were uplinks,
so that its NodePort programs see the replies of pods on the node.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.place import Site
from bench.compare.proxies import (
    CannotError,
    Entries,
    Programmed,
    count_rules,
    said_at_the_end,
    wait_until_served,
)
from bench.compare.secluded import BPFFS, CGROUP, secluded, seen_from_outside
from bench.compare.services import NODE_PORTS, Cluster, Port, slice_object
from bench.compare.watching import Watched
from vipbee.datapath import syscall
from vipbee.lab.programs import search_path
from vipbee.lab.wiring import pod_device

NODE_PORT_TIMEOUT_S = 60.0
DEFAULT_ENTRIES = 65_536  # of each table of Services
_STATE = "services.json"
_DEVICES = ("cilium_host",)  # its other end goes with it
_TABLES = ("services", "backends", "reverse_nat")


class CiliumAgent:
    """`binary` is cilium-agent; what it needs beside its sources of BPF is said in `_command`."""

    def __init__(self, site: Site, key: str, title: str, binary: Path) -> None:
        self.key, self.title, self.site = key, title, site
        self._binary = binary.absolute()
        self._run = Path(site.lab.directory) / "cilium"
        self._process: subprocess.Popen[str] | None = None
        self._cluster: Cluster | None = None
        self._state: dict[str, list[dict[str, Any]]] = {}

    def program(self, cluster: Cluster, limit_s: float) -> Programmed:
        if not os.access(self._binary, os.X_OK) or self._binary.is_dir():
            raise CannotError(f"{self._binary} is no program")
        self._cluster, self._state = cluster, cluster.objects()
        shutil.rmtree(self._run, ignore_errors=True)
        self._run.mkdir()
        self._publish(self._encode())
        log = Path(self.site.lab.directory) / "logs" / "cilium-agent.log"
        log.unlink(missing_ok=True)
        started = time.monotonic()
        process = self._process = self.site.node.start_daemon(
            secluded(self._command(), self._run), log=log
        )
        watched = Watched(process.pid)
        try:
            try:
                wait_until_served(
                    self.site, cluster, limit_s, ended=lambda: said_at_the_end(process, log)
                )
                took_s = time.monotonic() - started
            finally:
                usage = watched.stop()
            self._wait_for_node_ports(process, log)
        except CannotError as error:
            raise CannotError(f"{error}{_complaint(log)}") from None
        return Programmed(took_s, None, usage.cpu_s, usage.peak_mib)

    def entries(self) -> Entries:
        assert self._process is not None
        assert self._cluster is not None
        pins = seen_from_outside(self._process.pid, f"{BPFFS}/tc/globals")
        prefix = f"cilium_lb{self._cluster.family}_"
        used = [
            _count(path)
            for table in _TABLES
            for path in (*pins.glob(f"{prefix}{table}"), *pins.glob(f"{prefix}{table}_v[0-9]*"))
        ]
        return Entries(count_rules(self.site), sum(used))

    def change(self, before: Port, after: Port) -> int:
        assert self._cluster is not None
        changed = slice_object([after], self._cluster.family, self._cluster.servers)
        name = changed["metadata"]["name"]
        slices = self._state["endpoints"]
        place = next(n for n, found in enumerate(slices) if found["metadata"]["name"] == name)
        slices[place] = changed
        content = self._encode()
        started = time.monotonic_ns()
        self._publish(content)
        return started

    def clear(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its compilers too
        self._process.wait()
        self._process = None
        for device in _DEVICES:
            self.site.node.run(["ip", "link", "delete", device])
        empty = "".join(f"*{table}\nCOMMIT\n" for table in ("raw", "mangle", "filter", "nat"))
        for program in ("iptables", "ip6tables"):
            for backend in ("legacy", "nft"):
                restore = [f"{program}-{backend}-restore"]
                self.site.node.run(restore, input=empty, timeout_s=120)

    # ---- private -------------------------------------------------------------------------

    def _encode(self) -> bytes:
        return msgspec.json.encode(self._state)

    def _publish(self, content: bytes) -> None:
        """At once, as it watches the directory."""
        new = self._run / f"{_STATE}.new"
        new.write_bytes(content)
        new.rename(self._run / _STATE)

    def _wait_for_node_ports(self, process: subprocess.Popen[str], log: Path) -> None:
        """They come after the socket layer, once the programs of devices are compiled."""
        assert self._cluster is not None
        address = self.site.node.address(self._cluster.family)
        deadline = time.monotonic() + NODE_PORT_TIMEOUT_S
        for port in NODE_PORTS.values():
            while self.site.load("connect", 1, address, port, outside=True).failed:
                if (how := said_at_the_end(process, log)) is not None:
                    raise CannotError(f"it ended {how}")
                if time.monotonic() > deadline:
                    raise CannotError(
                        f"NodePort {port} did not answer within {NODE_PORT_TIMEOUT_S:.0f} s"
                    )

    def _command(self) -> list[str]:
        """All that stands beside the agent is taken before the system's: bpf/, clang."""
        assert self._cluster is not None
        beside = self._binary.parent
        path = os.pathsep.join([str(beside), *_newest_compilers(), search_path()])
        pods = [self.site.lab.pod(name).plan for name in ("client-0", "local")]
        devices = ",".join(["eth0", *(pod_device(pod) for pod in pods)])
        return [
            *("env", f"PATH={path}", "HOME=/run", f"K8S_NODE_NAME={self.site.node.name}"),
            str(self._binary),
            # alone: no API server, no key-value store, no pods to connect
            "--enable-k8s=false",
            "--agent-health-require-k8s-connectivity=false",
            "--identity-allocation-mode=crd",
            "--ipam=cluster-pool",
            "--ipv4-range=10.245.1.0/24",
            "--ipv6-range=fd00:10:245:1::/96",
            "--routing-mode=native",
            "--enable-ipv4=true",
            "--enable-ipv6=true",
            "--enable-ipv4-masquerade=false",
            "--enable-ipv6-masquerade=false",
            # Services and nothing else
            "--kube-proxy-replacement=true",
            f"--devices={devices}",
            "--direct-routing-device=eth0",
            f"--bpf-lb-map-max={_entries_needed(self._cluster)}",
            f"--lb-state-file=/run/{_STATE}",
            # what it waits for a file to settle is no part of a change: the file comes at once
            "--lb-state-file-interval=10ms",
            "--enable-policy=never",
            "--enable-l7-proxy=false",
            "--enable-hubble=false",
            "--enable-health-checking=false",
            "--enable-endpoint-health-checking=false",
            # nothing outside the site
            f"--bpf-root={BPFFS}",
            f"--cgroup-root={CGROUP}",
            "--state-dir=/run/cilium",
            "--socket-path=/run/cilium/cilium.sock",
            *([f"--lib-dir={beside}"] if (beside / "bpf").is_dir() else []),
        ]


def title_of(binary: Path) -> str:
    """With the version, if it tells one: "cilium-agent 1.20.1 go version …"."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30)
        words = done.stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        words = []
    return f"Cilium {words[1]}" if len(words) > 1 and words[0] == "cilium-agent" else "Cilium"


def _complaint(log: Path) -> str:
    """What it said last that was not good news, if anything, to be put behind a sentence."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    bad = [line for line in lines if re.search(r"\blevel=(warn|error)", line)]
    return f"; its log: {bad[-1].partition('msg=')[2][:200]}" if bad else ""


def _entries_needed(cluster: Cluster) -> int:
    """Its default, or as for vipbee twice what is needed: one for a frontend and each backend."""
    return max(DEFAULT_ENTRIES, 2 * cluster.services * (cluster.endpoints + 1))


def _newest_compilers() -> list[str]:
    """Where Debian keeps clang by version: Cilium needs 18.1, and plain `clang` may be older."""
    found = [path for path in Path("/usr/lib").glob("llvm-*/bin") if (path / "clang").exists()]
    by_version = {int(path.parent.name.removeprefix("llvm-")): path for path in found}
    return [str(by_version[max(by_version)])] if by_version else []


def _count(pin: Path) -> int:
    fd = syscall.obj_get(str(pin), read_only=True)
    try:
        key: bytearray | None = None
        following = bytearray(syscall.map_info(fd).key_size)
        count = 0
        while syscall.map_next_key(fd, key, following):
            key, count = bytearray(following), count + 1
        return count
    finally:
        os.close(fd)
