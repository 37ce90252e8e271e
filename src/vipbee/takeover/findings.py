# SPDX-License-Identifier: Apache-2.0
"""kube-proxy in `vipbee check`: what is there of it, and what to do. Looks only."""

from __future__ import annotations

from vipbee.datapath.finding import Finding, Result
from vipbee.errors import EnvironmentUnusable
from vipbee.takeover import ipvs, nftables
from vipbee.takeover.iptables import installed
from vipbee.takeover.running import find_running

_REMEDY = "stop kube-proxy, then `vipbee agent --takeover` removes its rules"


def find_kube_proxy() -> list[Finding]:
    """One finding for each place it can be in; a program that is not installed is not asked."""
    found = [_finding("kube-proxy", find_running(), "does not run")]
    try:
        for tool in installed():
            number = tool.count_chains()
            found.append(_finding(f"kube-proxy in {tool.program}", _plural(number, "chain")))
        if nftables.is_installed():
            tables = [f"table {family} {nftables.TABLE}" for family in nftables.find_tables()]
            found.append(_finding("kube-proxy in nftables", ", ".join(tables)))
    except EnvironmentUnusable as error:
        found.append(Finding("kube-proxy's rules", Result.WARNING, error.problem, error.remedy))
    if leftovers := ipvs.find():
        found.append(_finding("kube-proxy in IPVS", str(leftovers)))
    return found


def _finding(what: str, there: str, otherwise: str = "none") -> Finding:
    if not there:
        return Finding(what, Result.OK, otherwise)
    return Finding(what, Result.WARNING, there, _REMEDY)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}" if number else ""
