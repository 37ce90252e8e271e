# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's tables in nftables: `ip kube-proxy` and `ip6 kube-proxy`, nobody else's name."""

from __future__ import annotations

from collections.abc import Collection

from vipbee.takeover import programs

TABLE = "kube-proxy"
_FAMILIES = ("ip", "ip6")


def is_installed() -> bool:
    return programs.is_installed("nft")


def find_tables() -> list[str]:
    """Families in which kube-proxy has its table."""
    lines = [line.split() for line in programs.run(("nft", "list", "tables")).splitlines()]
    return [family for family in _FAMILIES if ["table", family, TABLE] in lines]


def remove(families: Collection[str]) -> None:
    """Delete kube-proxy's tables with all they hold, at one moment for both families."""
    commands = [f"delete table {family} {TABLE}" for family in families]
    programs.run(("nft", "-f", "-"), "\n".join([*commands, ""]))
