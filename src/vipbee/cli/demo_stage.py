# SPDX-License-Identifier: Apache-2.0
"""The stage a demo plays on: headings, commands, answers, and claims that are checked.

A claim is shown with the value it was decided by, and a false one makes the demo
fail: nothing is printed as true that was not just measured.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from vipbee.lab import Lab, Place
from vipbee.lab.probes import StreamReport

BAR_WIDTH = 40
READING_TIME_S = 0.8


class Claim(NamedTuple):
    text: str
    is_true: bool


class Stage:
    """`fast`: no pauses for reading. Plain ASCII when the output is no terminal."""

    def __init__(self, lab: Lab, console: Console, *, fast: bool) -> None:
        self.lab = lab
        self.console = console
        self.checked: list[Claim] = []
        self._pause_s = 0.0 if fast or not console.is_terminal else READING_TIME_S
        self._steps = 0

    @property
    def false_claims(self) -> list[str]:
        return [claim.text for claim in self.checked if not claim.is_true]

    def heading(self, title: str) -> None:
        """Start the next step, after time to read the last one."""
        time.sleep(self._pause_s if self._steps else 0)
        self._steps += 1
        self.console.print()
        self.console.print(Text(f"{self._steps}. {title}", style="bold cyan"))

    def show(self, what: RenderableType) -> None:
        self.console.print(Padding(what, (0, 0, 0, 3), expand=False))

    def note(self, text: str) -> None:
        self.show(Text(text, style="dim"))

    def run(self, place: Place, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Show the command line with its place, and run it there."""
        self.show(Text.assemble((f"{place.name}$ ", "bold green"), shlex.join(argv)))
        return place.run(argv)

    def claim(self, text: str, is_true: bool) -> None:
        self.checked.append(Claim(text, is_true))
        mark, style = self._mark(is_true)
        self.show(Text.assemble((f"{mark} ", style), (text, "" if is_true else style)))

    def claim_none_failed(self, total: StreamReport) -> None:
        failed = len(total.failures)
        why = f" (first: {total.failures[0]})" if failed else ""
        self.claim(f"{total.requests} requests, {failed} failed{why}", failed == 0)

    def bars(self, counts: Mapping[str, int]) -> None:
        """One bar a name, longest full width."""
        longest = max(counts.values(), default=1) or 1
        for name in sorted(counts):
            width = round(BAR_WIDTH * counts[name] / longest)
            bar = ("█" if self.console.is_terminal else "#") * width
            self.show(Text.assemble((f"{name:8}", "bold"), (bar, "magenta"), f" {counts[name]}"))

    def _mark(self, is_true: bool) -> tuple[str, str]:
        if not self.console.is_terminal:
            return ("ok  " if is_true else "FALSE"), ""
        return ("✓", "bold green") if is_true else ("✗", "bold red")
