# SPDX-License-Identifier: Apache-2.0
"""Who else handles Services on this machine: kube-proxy's rules, another agent. Looks only.

Nothing here blocks: vipbee takes a connection to a Service before netfilter sees it.
But rules of a kube-proxy that is gone serve Services as they were then.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import pins
from vipbee.datapath.finding import Finding, Result

_REMEDY = "stop kube-proxy, then remove its rules with `kube-proxy --cleanup`"
_CHAIN = re.compile(
    rb"^:(KUBE-(?:SERVICES|SVC-|NODEPORTS|EXTERNAL-SERVICES|PROXY)\S*)", re.MULTILINE
)
_NAMES4, _NAMES6 = Path("/proc/net/ip_tables_names"), Path("/proc/net/ip6_tables_names")
_IPTABLES = (
    ("iptables-save", _NAMES4),
    ("ip6tables-save", _NAMES6),
    ("iptables-legacy-save", _NAMES4),
    ("ip6tables-legacy-save", _NAMES6),
)
_TIMEOUT_S = 10


def find_leftovers(bpf_root: Path) -> list[Finding]:
    """Findings about others; a tool that is not installed is not asked."""
    return [*_iptables(), *_nftables(), *_ipvs(), other_agent(bpf_root)]


def _iptables() -> list[Finding]:
    found = []
    for tool, names in _IPTABLES:
        # Asking the legacy tool loads its kernel module; without the module it has no rules.
        if _is_legacy(tool) and not names.exists():
            continue
        output = _output(tool)
        if output is None:
            continue
        chains = len(set(_CHAIN.findall(output)))
        found.append(_finding(f"kube-proxy in {tool.replace('-save', '')}", chains, "chains"))
    return found


def _is_legacy(tool: str) -> bool:
    path = shutil.which(tool)
    return path is not None and "legacy" in os.path.realpath(path)


def _nftables() -> list[Finding]:
    output = _output("nft", "list", "tables")
    if output is None:
        return []
    tables = sum(line.split()[-1:] == [b"kube-proxy"] for line in output.splitlines())
    return [_finding("kube-proxy in nftables", tables, "tables")]


def _ipvs() -> list[Finding]:
    try:
        lines = Path("/proc/net/ip_vs").read_text().splitlines()
    except OSError:
        return []  # IPVS is not even loaded
    return [
        _finding(
            "virtual servers in IPVS", sum(x[:4] in ("TCP ", "UDP ") for x in lines), "of them"
        )
    ]


def other_agent(bpf_root: Path) -> Finding:
    what = "another agent"
    if not bpf_root.is_dir() or not pins.is_held(bpf_root):
        return Finding(what, Result.OK, "none holds the lock")
    place = bpf_root / LAYOUT_VERSION
    return Finding(
        what,
        Result.WARNING,
        f"one runs on {place}" if place.is_dir() else f"one is starting on {bpf_root}",
        "stop it before you start one with the same --bpf-root",
    )


def _finding(what: str, number: int, unit: str) -> Finding:
    if not number:
        return Finding(what, Result.OK, "none")
    return Finding(what, Result.WARNING, f"{number} {unit}", _REMEDY)


def _output(*command: str) -> bytes | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
