# SPDX-License-Identifier: Apache-2.0
"""What is compared. A proxy serves one cluster in its own site, until it is cleared.

Here: none at all, and kube-proxy's rules without kube-proxy. vipbee is in vipbee_agent.py,
the real kube-proxy in kube_proxy.py, Cilium in cilium.py.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.compare import iptables_rules, nftables_rules
from bench.compare.place import Site
from bench.compare.services import PORT, TARGET_PORT, Cluster, Port


class CannotError(Exception):
    """Why this proxy is not measured at this size: one sentence."""


@dataclass(frozen=True, slots=True)
class Programmed:
    """From nothing until the last Service answers."""

    took_s: float
    sync_s: float | None  # the part after it knew everything, if it says so
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Entries:
    rules: int  # of netfilter, in the node
    map_entries: int  # of BPF maps, or elements of nftables' sets and maps


class Proxy(Protocol):
    """`program` raises CannotError; the rest is valid after it, until `clear`."""

    key: str
    title: str
    site: Site

    def program(self, cluster: Cluster, limit_s: float) -> Programmed: ...

    def entries(self) -> Entries: ...

    def change(self, before: Port, after: Port) -> int:
        """Give a Service other endpoints; CLOCK_MONOTONIC ns when the order was given."""

    def clear(self) -> None:
        """Serve nothing any more; no error if it serves nothing."""


class Direct:
    """No Service: the client dials the server. The limit of what a proxy can reach."""

    def __init__(self, site: Site) -> None:
        self.key, self.title, self.site = "direct", "direct, no Service", site

    def program(self, cluster: Cluster, limit_s: float) -> Programmed:
        return Programmed(0.0, None, 0.0, 0.0)

    def entries(self) -> Entries:
        return Entries(count_rules(self.site), 0)

    def change(self, before: Port, after: Port) -> int:
        raise CannotError("nothing to change")

    def clear(self) -> None:
        pass


class RuleSet(ABC):
    """kube-proxy's rules, loaded by its own tool, without kube-proxy.

    Its times are a lower bound: computing the rules and kube-proxy's pause of a second
    between two syncs would come on top.
    """

    def __init__(self, site: Site, key: str, title: str) -> None:
        self.key, self.title, self.site = key, title, site
        self._cluster: Cluster | None = None

    def program(self, cluster: Cluster, limit_s: float) -> Programmed:
        text = self._all_rules(cluster)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        self._cluster = cluster
        self._load(text, limit_s)
        took_s = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        # the largest child ever: right as long as sizes grow
        return Programmed(took_s, took_s, cpu_s, after.ru_maxrss / 1024)

    def change(self, before: Port, after: Port) -> int:
        assert self._cluster is not None
        text = self._changed_rules(self._cluster, before, after)
        started = time.monotonic_ns()
        self._load(text, 60.0)
        return started

    @abstractmethod
    def entries(self) -> Entries:
        """What is in the kernel now."""

    def clear(self) -> None:
        self._cluster = None

    @abstractmethod
    def _all_rules(self, cluster: Cluster) -> str:
        """Input of the tool, from nothing."""

    @abstractmethod
    def _changed_rules(self, cluster: Cluster, before: Port, after: Port) -> str:
        """Input of the tool for one change."""

    @abstractmethod
    def _load(self, text: str, limit_s: float) -> None:
        """Hand it to the tool; CannotError if that takes too long or is refused."""

    def _run(self, argv: list[str], text: str | None, limit_s: float) -> str:
        try:
            done = self.site.node.run(argv, input=text, timeout_s=limit_s)
        except subprocess.TimeoutExpired:
            raise CannotError(f"{argv[0]} had not finished after {limit_s:.0f} s") from None
        if done.returncode:
            raise CannotError(f"{argv[0]}: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout


class NftablesRules(RuleSet):
    def _all_rules(self, cluster: Cluster) -> str:
        return nftables_rules.all_rules(cluster, self.site.node.address(cluster.family))

    def _changed_rules(self, cluster: Cluster, before: Port, after: Port) -> str:
        return nftables_rules.changed_rules(cluster, before, after)

    def _load(self, text: str, limit_s: float) -> None:
        self._run(["nft", "-f", "-"], text, limit_s)

    def entries(self) -> Entries:
        assert self._cluster is not None
        text = self._all_rules(self._cluster)
        return Entries(count_rules(self.site), text.count("\nadd element "))

    def clear(self) -> None:
        super().clear()
        for family in ("ip", "ip6"):
            self.site.node.run(["nft", "delete", "table", family, "kube-proxy"], timeout_s=120)


class IptablesRules(RuleSet):
    """`backend`: "legacy" or "nft"."""

    def __init__(self, site: Site, key: str, title: str, backend: str) -> None:
        super().__init__(site, key, title)
        self._backend = backend

    def _all_rules(self, cluster: Cluster) -> str:
        return iptables_rules.jump_rules() + iptables_rules.all_rules(cluster)

    def _changed_rules(self, cluster: Cluster, before: Port, after: Port) -> str:
        return iptables_rules.partial_rules(cluster, after)

    def _load(self, text: str, limit_s: float) -> None:
        assert self._cluster is not None
        program = "iptables" if self._cluster.family == 4 else "ip6tables"
        self._run([f"{program}-{self._backend}-restore", "--noflush"], text, limit_s)

    def entries(self) -> Entries:
        return Entries(count_rules(self.site), 0)

    def clear(self) -> None:
        super().clear()
        for program in ("iptables", "ip6tables"):
            restore = [f"{program}-{self._backend}-restore"]
            empty = "".join(f"*{table}\nCOMMIT\n" for table in ("filter", "nat"))
            self.site.node.run(restore, input=empty, timeout_s=120)


def count_rules(site: Site) -> int:
    """Rules of netfilter in the node's namespace, as the tools list them; jumps count."""
    total = 0
    for save in ("iptables-legacy-save", "ip6tables-legacy-save"):
        listed = site.node.run([save], timeout_s=120).stdout
        total += sum(line.startswith("-A ") for line in listed.splitlines())
    listed = site.node.run(["nft", "-a", "-nn", "list", "ruleset"], timeout_s=120).stdout
    for line in listed.splitlines():
        stripped = line.strip()
        is_block = stripped.startswith(("table ", "chain ", "set ", "map "))
        total += "# handle " in stripped and not is_block
    return total


def requires(*programs: str) -> None:
    """Raise CannotError if one of them is not installed."""
    for program in programs:
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            raise CannotError(f"{program} is not installed")


def said_at_the_end(process: subprocess.Popen[str], log: Path) -> str | None:
    """The last line of a proxy that has ended; None while it runs."""
    if process.poll() is None:
        return None
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
    return f"with exit code {process.returncode}: {last[:200]}"


def wait_until_served(
    site: Site, cluster: Cluster, limit_s: float, *, ended: Callable[[], str | None]
) -> None:
    """Wait until the last Service answers; CannotError after the limit or once it `ended`."""
    deadline = time.monotonic() + limit_s
    last = cluster.vip(cluster.dialled["last"])
    while True:
        if not site.load("connect", 1, last, PORT).failed:
            return
        if (how := ended()) is not None:
            raise CannotError(f"it ended {how}")
        if time.monotonic() > deadline:
            raise CannotError(f"the last Service did not answer within {limit_s:.0f} s")


def target(proxy: Proxy, cluster: Cluster, place: str) -> tuple[str, int]:
    """What the client dials for Service `first`, `middle` or `last`."""
    if isinstance(proxy, Direct):
        return cluster.servers.local, TARGET_PORT
    return cluster.vip(cluster.dialled[place]), PORT
