# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's chains in iptables: both backends, both families. Which are its: chains.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vipbee.takeover import programs
from vipbee.takeover.chains import Removal, count_chains, plan_removal

_LOCK_WAIT_S = 10  # the kubelet and CNI plugins take xtables' lock, too


class Iptables(NamedTuple):
    """One set of rules: a backend and a family."""

    program: str  # iptables-nft, iptables-legacy, …, or plain iptables where there is but one

    def count_chains(self) -> int:
        return count_chains(self._save())

    def remove(self) -> Removal:
        """Take kube-proxy's chains out, each table at once; says what went and what stayed."""
        removal = plan_removal(self._save())
        if removal.restore_input:
            command = (f"{self.program}-restore", "--noflush", "-w", str(_LOCK_WAIT_S))
            programs.run(command, removal.restore_input)
        return removal

    def _save(self) -> str:
        return programs.run((f"{self.program}-save",))


def installed() -> Iterator[Iptables]:
    """Those that can be asked. A backend without any program for it is not."""
    for base, names in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
        backends = [f"{base}-{b}" for b in ("nft", "legacy") if _has(f"{base}-{b}")]
        for program in backends or ([base] if _has(base) else []):
            # Asking the legacy program loads its kernel module; without that it has no rules.
            if not _is_legacy(program) or _is_used(Path("/proc/net") / names):
                yield Iptables(program)


def _has(program: str) -> bool:
    return programs.is_installed(f"{program}-save")


def _is_legacy(program: str) -> bool:
    if program.endswith(("-nft", "-legacy")):
        return program.endswith("-legacy")
    return "nf_tables" not in programs.run((program, "--version"))


def _is_used(names: Path) -> bool:
    try:
        return bool(names.read_text().strip())
    except OSError:
        return False
