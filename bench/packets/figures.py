# SPDX-License-Identifier: Apache-2.0
"""One line of the table: what was measured, against which target."""

from __future__ import annotations

from dataclasses import dataclass

from bench.sockets.rows import number


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` and `target` in `unit`. A target is a limit, or with `is_floor` the least."""

    what: str
    value: float
    unit: str
    target: float | None = None
    detail: str = ""
    is_floor: bool = False

    @property
    def is_met(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.is_floor else self.value <= self.target

    @property
    def verdict(self) -> str:
        if self.target is None or self.is_met:
            return "" if self.target is None else "met"
        if not self.target:
            return "missed"
        return f"missed by {100 * abs(self.value / self.target - 1):.0f} %"

    @property
    def limit(self) -> str:
        if self.target is None:
            return ""
        return f"{'≥' if self.is_floor else '≤'} {_number(self.target, self.unit)}"

    @property
    def measured(self) -> str:
        return _number(self.value, self.unit)


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}" if not unit else number(value, unit)
