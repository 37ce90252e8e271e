# SPDX-License-Identifier: Apache-2.0
"""What of a node's iptables rules is kube-proxy's, and the input that removes just that. Pure.

Chains are known by name, as `kube-proxy --cleanup` knows them (pkg/proxy/iptables/cleanup.go
and pkg/proxy/ipvs/cleanup.go of Kubernetes 1.36, with KUBE-XLB- of 1.23 and older); jumps from
the built-in chains by their target and comment. Everything else is somebody else's:

    KUBE-FIREWALL, KUBE-IPTABLES-HINT, KUBE-KUBELET-CANARY, KUBE-MARK-DROP     the kubelet's
    KUBE-ROUTER-*, KUBE-NWPLCY-*, KUBE-POD-FW-*                                kube-router's
    CNI-*, cali-*, FLANNEL-*, DOCKER*, …                                       a network's

A chain of kube-proxy's that somebody else's rule jumps to stays, with all it leads to: CNI's
portmap may borrow KUBE-MARK-MASQ (`externalSetMarkChain`), and a mark is worth nothing without
KUBE-POSTROUTING. Kubelets before 1.28 make these two as well, so they alone prove nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

_MARK, _MASQUERADE = "KUBE-MARK-MASQ", "KUBE-POSTROUTING"
_OWNED: Mapping[str, re.Pattern[str]] = {
    "nat": re.compile(
        r"KUBE-(?:SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|PROXY-CANARY"
        r"|NODE-PORT|LOAD-BALANCER|(?:SVC|SVL|FW|EXT|SEP|XLB)-.+)"
    ),
    "filter": re.compile(
        r"KUBE-(?:SERVICES|EXTERNAL-SERVICES|FORWARD|NODEPORTS|PROXY-FIREWALL|PROXY-CANARY"
        r"|NODE-PORT|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER)"
    ),
    "mangle": re.compile(r"KUBE-PROXY-CANARY"),
}
_BUILT_IN = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))
_COMMENTS = frozenset(
    (
        "kubernetes service portals",
        "kubernetes externally-visible service portals",
        "kubernetes health check service ports",
        "kubernetes health check rules",
        "kubernetes forwarding rules",
        "kubernetes load balancer firewall",
        "kubernetes postrouting rules",
        "kube-proxy firewall rules",
        "kubernetes ipvs access filter",
    )
)
_SHARED_WITH_KUBELET = frozenset((_MARK, _MASQUERADE))


@dataclass(slots=True)
class _Table:
    name: str
    chains: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def owns(self, chain: str) -> bool:
        pattern = _OWNED.get(self.name)
        return pattern is not None and pattern.fullmatch(chain) is not None


@dataclass(frozen=True, slots=True)
class Removal:
    """What leads from the saved rules to the same without kube-proxy's."""

    restore_input: str  # for iptables-restore --noflush; "" if nothing goes
    gone: int  # chains
    kept: Mapping[str, str]  # chains of kube-proxy's that stay → the rule that uses them


def count_chains(saved: str) -> int:
    """Chains in the output of iptables-save that only kube-proxy makes."""
    return sum(
        table.owns(chain) and chain not in _SHARED_WITH_KUBELET
        for table in _tables(saved)
        for chain in table.chains
    )


def plan_removal(saved: str) -> Removal:
    """Everything that is kube-proxy's and that nobody else uses, as one transaction a table."""
    parts: list[str] = []
    gone = 0
    kept: dict[str, str] = {}
    for table in _tables(saved):
        stays = _used_by_others(table)
        kept |= stays
        chains = dict.fromkeys(c for c in table.chains if table.owns(c) and c not in stays)
        if not chains:
            continue
        gone += len(chains)
        jumps = [rule for rule in table.rules if _jump(table, rule) in chains]
        parts.append(f"*{table.name}")
        parts += [f":{chain} - [0:0]" for chain in chains]  # empties it
        parts += [f"-D {rule.removeprefix('-A ')}" for rule in jumps]
        parts += [f"-X {chain}" for chain in chains]
        parts.append("COMMIT")
    return Removal("\n".join([*parts, ""]) if parts else "", gone, kept)


def _tables(saved: str) -> Iterator[_Table]:
    """What iptables-save prints: `*table`, `:chain policy [counters]`, `-A chain …`, `COMMIT`."""
    table: _Table | None = None
    for line in saved.splitlines():
        if line.startswith("*"):
            table = _Table(line[1:])
        elif table is None:
            continue
        elif line.startswith(":"):
            table.chains.append(line[1:].split(" ", 1)[0])
        elif line.startswith("-A "):
            table.rules.append(line)
        elif line == "COMMIT":
            yield table
            table = None


def _used_by_others(table: _Table) -> dict[str, str]:
    """Chains of kube-proxy's that must stay → a rule of somebody else's that needs them."""
    stays: dict[str, str] = {}
    for rule in table.rules:
        if " KUBE-" in rule and not table.owns(_chain(rule)) and not _jump(table, rule):
            stays |= {target: rule for target in _targets(rule) if table.owns(target)}
    if _MARK in stays and _MASQUERADE in table.chains:
        stays.setdefault(_MASQUERADE, stays[_MARK])
    found: Collection[str] = stays.keys()
    while found:  # and what these lead to
        used = {t: r for r in table.rules if _chain(r) in found for t in _targets(r)}
        fresh = {t: r for t, r in used.items() if t not in stays and table.owns(t)}
        stays |= fresh
        found = fresh.keys()
    return stays


def _jump(table: _Table, rule: str) -> str:
    """Where it leads, if it is a jump of kube-proxy's from a built-in chain; else ""."""
    if _chain(rule) not in _BUILT_IN or "KUBE-" not in rule:
        return ""
    words = shlex.split(rule)
    comments = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--comment"]
    for target in _targets(rule):
        if table.owns(target) and not _COMMENTS.isdisjoint(comments):
            return target
    return ""


def _chain(rule: str) -> str:
    return rule.split(" ", 2)[1]


def _targets(rule: str) -> list[str]:
    words = shlex.split(rule)
    return [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-j", "-g")]
