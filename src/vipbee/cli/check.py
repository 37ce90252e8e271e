# SPDX-License-Identifier: Apache-2.0
"""`vipbee check`: can this machine run it, with what, and if not, what to do.

`-o json`: `usable` (no finding is "missing") and `findings`, a list of: what, result
("ok" | "falls back" | "warning" | "missing"), used (what will be used, or what is
wrong), remedy (text; empty if there is nothing to do).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    count,
    print_document,
    print_table,
    say,
    working,
)
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption
from vipbee.errors import EnvironmentUnusable

if TYPE_CHECKING:
    from vipbee.datapath.finding import Finding

_COLUMNS = (
    Column("WHAT"),
    Column("RESULT"),
    Column("USED", is_sentence=True),
    Column("REMEDY", is_wide=True, is_sentence=True),
)


def check(
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
    cgroup_root: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="As for the agent; default: found by itself."),
    ] = None,
) -> None:
    """Try whether this machine can run vipbee.

    Kernel, hooks, cgroup, bpffs, capabilities, what a kube-proxy left. Loads every program
    and attaches it to an empty cgroup for a moment; changes nothing. Exits 3 if something
    that is needed is missing, with the one thing to do.
    """
    with working("Trying programs, hooks and maps …"):
        findings = find(bpf_root, cgroup_root)
    blocking = [finding for finding in findings if finding.is_blocking]
    if output.is_document:
        print_document({"usable": not blocking, "findings": findings}, output)
    else:
        print_table(
            _COLUMNS, [(f.what, f.result, f.used, f.remedy or "-") for f in findings], output
        )
        _print_advice(findings, output)
        say()
        say(_verdict(findings))
    sys.stdout.flush()
    for finding in blocking:
        print(f"vipbee: {finding.what}: {finding.used}: {finding.remedy}", file=sys.stderr)
    if blocking:
        raise typer.Exit(EnvironmentUnusable.exit_code)


def find(bpf_root: Path, cgroup_root: Path | None) -> list[Finding]:
    """Everything `check` shows."""
    from vipbee.config.map_sizes import MapSizes
    from vipbee.datapath.other_agent import other_agent
    from vipbee.datapath.probe import probe
    from vipbee.privileged.probe import probe_rights
    from vipbee.takeover.findings import find_kube_proxy

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sizes = MapSizes.for_memory(memory, os.cpu_count() or 1)
    findings = probe(cgroup_root=cgroup_root, bpf_root=bpf_root, map_bytes=sizes.bytes_when_full)
    if any(finding.is_blocking and finding.what == "capabilities" for finding in findings):
        return findings  # the tools below would only say the same again
    return [*findings, probe_rights(), *find_kube_proxy(), other_agent(bpf_root)]


def _verdict(findings: list[Finding]) -> str:
    if any(finding.is_blocking for finding in findings):
        return "This machine cannot run vipbee yet."
    results = [str(finding.result) for finding in findings]
    remarks = [
        count(results.count(result), noun)
        for result, noun in (("falls back", "fallback"), ("warning", "warning"))
        if result in results
    ]
    return f"This machine can run vipbee{', with ' if remarks else ''}{' and '.join(remarks)}."


def _print_advice(findings: list[Finding], output: Format) -> None:
    advice = [f for f in findings if f.remedy and not f.is_blocking]
    if advice and output is Format.TABLE:
        say()
        for finding in advice:
            say(f"{finding.what}: {finding.remedy}", style="yellow")
