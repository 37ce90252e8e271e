# SPDX-License-Identifier: Apache-2.0
"""What the agent leaves in the kernel for people: who it is, and what is wrong.

`vipbee status` reads it also when no agent runs. Nothing here decides or logs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np

from vipbee import __version__
from vipbee.abi import Layouts, MapName, ReportSeverity
from vipbee.core.plan import Op
from vipbee.datapath.kernel import KernelTables
from vipbee.model import Problem

_FIRST = np.zeros(1, dtype=np.uint32)


class Noticeboard:
    """Writes the maps `agent` and `reports`."""

    def __init__(
        self, tables: KernelTables, layouts: Layouts, *, node_name: str, source: str
    ) -> None:
        self._tables = tables
        self._layouts = layouts
        self._shown: list[Problem] | None = None
        self._card = np.zeros(1, dtype=layouts["agent_info"])
        self._card["node_name"] = _bytes(node_name, 256)
        self._card["version"] = _bytes(__version__, 32)
        self._card["source"] = _bytes(source, 256)
        self._card["started_unix_ns"] = time.time_ns()
        self._card["pid"] = os.getpid()

    def count_audit(self, *, repairs: int) -> None:
        """Remember an audit; the next `write_card` shows it."""
        self._card["audits"] += 1
        self._card["repairs"] += repairs

    def write_card(self, *, is_synced: bool = False) -> None:
        """Show who runs; with `is_synced` also that everything is programmed as of now."""
        if is_synced:
            self._card["synced_unix_ns"] = time.time_ns()
        self._tables.apply(Op(MapName.AGENT, _FIRST, self._card))

    def write_problems(self, problems: Sequence[Problem]) -> set[Problem]:
        """Show exactly these, as many as fit; return those that were not there before."""
        if problems == self._shown:
            return set()
        shown = problems[: self._tables.max_entries(MapName.REPORTS)]
        values = np.zeros(len(shown), dtype=self._layouts["report"])
        for value, problem in zip(values, shown, strict=True):
            value["object"] = _bytes(problem.object, 192)
            value["message"] = _bytes(problem.message, 316)
            value["severity"] = ReportSeverity.ERROR if problem.is_error else ReportSeverity.WARNING
        self._tables.apply(Op(MapName.REPORTS, np.arange(len(shown), dtype=np.uint32), values))
        keys, _ = self._tables.read_hash(MapName.REPORTS)
        self._tables.apply(Op(MapName.REPORTS, keys[keys >= len(shown)], None))
        fresh = set(problems) - set(self._shown or ())
        self._shown = list(problems)
        return fresh


def _bytes(text: str, size: int) -> bytes:
    """As many bytes as a char[size] holds with its NUL; a file's name may be any bytes."""
    return text.encode(errors="backslashreplace")[: size - 1]
