# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found: one row for each target, and how to print them."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """`value` and `target` in `unit`; lower is better. `target` None: for information."""

    what: str
    value: float
    unit: str
    target: float | None = None
    detail: str = ""

    @property
    def is_met(self) -> bool:
        return self.target is None or self.value <= self.target

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.is_met:
            return "met"
        if not self.target:
            return "missed"
        return f"missed by {100 * (self.value / self.target - 1):.0f} %"


def number(value: float, unit: str) -> str:
    if unit == "×":
        return f"{value:.3f} ×"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def print_rows(rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("what", "measured", "target", "verdict", ""):
        table.add_column(title, justify="right" if title in ("measured", "target") else "left")
    for row in rows:
        target = "" if row.target is None else f"≤ {number(row.target, row.unit)}"
        style = "" if row.target is None else "green" if row.is_met else "red"
        verdict = f"[{style}]{row.verdict}[/]" if style else ""
        table.add_row(row.what, number(row.value, row.unit), target, verdict, row.detail)
    console = Console()
    console = Console(width=None if console.is_terminal else 160)
    console.print(table)
