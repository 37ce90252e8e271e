# SPDX-License-Identifier: Apache-2.0
"""What a benchmark found: one row for each target, and how to print them."""

from __future__ import annotations

from dataclasses import dataclass


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
