# SPDX-License-Identifier: Apache-2.0
"""`vipbee demo`: build a cluster, show what vipbee does to it, prove it, clean up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from vipbee.cli.demo_stage import Stage
from vipbee.cli.demo_steps import STEPS
from vipbee.cli.lab import end_on_sigterm
from vipbee.cli.output import Format, FormatOption, print_document, working
from vipbee.errors import UsageError
from vipbee.lab import Lab
from vipbee.lab.programs import require_programs

TOPOLOGIES = (
    Path(__file__).parents[1] / "examples" / "lab.yaml",  # installed from a wheel
    Path(__file__).parents[3] / "examples" / "lab.yaml",  # run from the repository
)


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Without pauses for reading.")] = False,
    name: Annotated[
        str, typer.Option("--name", help="Name of the lab, if two run side by side.")
    ] = "show",  # not that of examples/lab.yaml, which somebody may have up
    output: FormatOption = Format.TABLE,
) -> None:
    """Watch real programs reach real servers through Services.

    Takes half a minute. Builds a two-node cluster of network namespaces, without touching
    this machine's own network, and removes it at the end, also after Ctrl-C. Exits 1 if a
    claim is false. With `-o json` the claims are printed as a document, and the show goes to
    stderr.
    """
    end_on_sigterm()
    require_programs(("curl", "dig", "ss"))
    console = Console(highlight=False, stderr=output.is_document)
    started = time.monotonic()
    with working("Building the cluster …"):
        lab = Lab.up(find_topology(), name=name)
    with lab:
        stage = Stage(lab, console, fast=fast)
        stage.note(f"lab {lab.name} is up after {time.monotonic() - started:.1f} s")
        for step in STEPS:
            step(stage)
    console.print()
    took_s = time.monotonic() - started
    if output.is_document:
        claims = [{"claim": claim.text, "isTrue": claim.is_true} for claim in stage.checked]
        print_document({"claims": claims, "seconds": round(took_s, 1)}, output)
    if stage.false_claims:
        console.print(Text(f"{len(stage.false_claims)} of {len(stage.checked)} claims are FALSE:"))
        for claim in stage.false_claims:
            console.print(f"  {claim}", markup=False)
        raise typer.Exit(1)
    console.print(
        Text(
            f"All {len(stage.checked)} claims checked and true. Cluster removed. {took_s:.0f} s.",
            style="bold green",
        )
    )


def find_topology() -> Path:
    for path in TOPOLOGIES:
        if path.is_file():
            return path
    raise UsageError("examples/lab.yaml is missing: reinstall vipbee")
