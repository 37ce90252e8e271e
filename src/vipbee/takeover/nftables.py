# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's tables in nftables: `ip kube-proxy` and `ip6 kube-proxy`, nobody else's name.

Connections that kube-proxy has translated live on in the kernel's connection tracking, but
the kernel translates only while some chain of type nat exists in the network namespace. So
if kube-proxy's is the last one, an empty one takes its place, in the same transaction; it
does nothing else and goes with the next boot or `nft delete table FAMILY vipbee-handover`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from vipbee.takeover import programs

TABLE = "kube-proxy"
HANDOVER_TABLE = "vipbee-handover"
_FAMILIES = ("ip", "ip6")


def is_installed() -> bool:
    return programs.is_installed("nft")


def find_tables() -> list[str]:
    """Families in which kube-proxy has its table."""
    lines = [line.split() for line in programs.run(("nft", "list", "tables")).splitlines()]
    return [family for family in _FAMILIES if ["table", family, TABLE] in lines]


def remove(families: Collection[str]) -> None:
    """Delete kube-proxy's tables with all they hold, at one moment for both families."""
    others = _others_with_nat()
    commands = []
    for family in families:
        commands.append(f"delete table {family} {TABLE}")
        if family not in others:
            commands += [
                f'add table {family} {HANDOVER_TABLE} {{ comment "keeps NAT of connections from'
                ' before vipbee took over"; }',
                f"add chain {family} {HANDOVER_TABLE} nat"
                " { type nat hook postrouting priority srcnat; }",
            ]
    programs.run(("nft", "-f", "-"), "\n".join([*commands, ""]))


def _others_with_nat() -> set[str]:
    """Families for which somebody else has a chain of type nat."""
    listed = json.loads(programs.run(("nft", "--json", "list", "chains")))
    found: set[str] = set()
    for item in listed["nftables"]:
        chain: dict[str, Any] = item.get("chain", {})
        if chain.get("type") == "nat" and chain["table"] != TABLE:
            found |= set(_FAMILIES) if chain["family"] == "inet" else {chain["family"]}
    return found
