# SPDX-License-Identifier: Apache-2.0
"""All that kube-proxy left in this network namespace's kernel, whatever its mode: find, remove.

Connections that its rules have translated live on in the kernel's connection tracking, as long
as somebody else uses that and NAT: the kubelet's KUBE-FIREWALL and a network's masquerading do.
Connections through IPVS end, as its state goes with the virtual server.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vipbee.takeover import ipvs, nftables
from vipbee.takeover.iptables import Iptables, installed


@dataclass(frozen=True, slots=True)
class Rules:
    """What was found; false if nothing was."""

    chains: tuple[tuple[Iptables, int], ...]  # every one that was asked, and chains in it
    tables: tuple[str, ...] | None  # families; None: nftables could not be asked
    ipvs: ipvs.Leftovers

    def __bool__(self) -> bool:
        return any(number for _, number in self.chains) or bool(self.tables) or bool(self.ipvs)

    def __str__(self) -> str:
        """For people: what, and where."""
        parts = [f"{number} chains in {tool.program}" for tool, number in self.chains if number]
        parts += [f"table {family} {nftables.TABLE} in nftables" for family in self.tables or ()]
        parts += [f"{self.ipvs} of IPVS"] if self.ipvs else []
        return ", ".join(parts)


@dataclass(slots=True)
class Removed:
    chains: int = 0
    tables: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    """What stays since somebody else uses it → by what."""


def find_rules() -> Rules:
    """Raise EnvironmentUnusable if a program that is there cannot be asked."""
    return Rules(
        tuple((tool, tool.count_chains()) for tool in installed()),
        tuple(nftables.find_tables()) if nftables.is_installed() else None,
        ipvs.find(),
    )


def remove_rules(found: Rules) -> Removed:
    """Remove kube-proxy's own; raise EnvironmentUnusable or KernelError as soon as one cannot be.

    Each table of rules goes as a whole or not at all. What somebody else uses stays.
    """
    removed = Removed()
    ipvs.remove_servers_and_device(found.ipvs)
    for tool, number in found.chains:
        if number:
            removal = tool.remove()
            removed.chains += removal.gone
            removed.kept |= removal.kept
    if found.tables:
        nftables.remove(found.tables)
        removed.tables = len(found.tables)
    for name in ipvs.destroy_sets(found.ipvs.sets):
        removed.kept[name] = "somebody's rule that matches it"
    return removed
