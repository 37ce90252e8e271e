# SPDX-License-Identifier: Apache-2.0
"""The headline of a run in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.compare.result import Measurement, Result

_COLUMNS = (
    ("connect p50, last Service", "connect_p50", "last"),
    ("DNS-sized p50", "resolve_p50", "last"),
    ("programming", "program", ""),
    ("endpoint change", "change", ""),
    ("rules", "rules", ""),
)


def print_table(result: Result) -> None:
    """A line for each proxy and size, IPv4; ratios to the direct connection in brackets."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Services", justify="right")
    table.add_column("proxy")
    for title, _, _ in _COLUMNS:
        table.add_column(title, justify="right")
    for size in result.sizes:
        for variant in result.variants:
            cells = [
                show(result.find(figure, variant.key, size, place=place))
                for _, figure, place in _COLUMNS
            ]
            if any(cells):
                table.add_row(f"{size:,}", variant.title, *cells)
    console = Console()
    Console(width=None if console.is_terminal else 140).print(table)
    for miss in result.missing:
        print(f"missing: {miss.figure}, {miss.variant}, {miss.services:,} Services: {miss.why}")
    for skip in result.skipped:
        print(f"skipped: {skip.title}: {skip.why}")


def show(found: Measurement | None) -> str:
    """Value, unit, ratio; * unstable, ! requests failed; empty if there is nothing."""
    if found is None:
        return ""
    text = number(found.value) + (f" {found.unit}" if found.unit else "")
    if found.ratio is not None:
        text += f" ({found.ratio:.2f} ×)"
    return text + ("*" if found.is_unstable else "") + ("!" if found.failed else "")


def number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
