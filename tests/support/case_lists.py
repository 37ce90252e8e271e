# SPDX-License-Identifier: Apache-2.0
"""Tables in docs/ that say of each case which tests cover it, or why none does.

| F7 | what it is | covered | `unit/test_x.py::test_name`, …; what else there is to say |
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
DOCS = TESTS.parent / "docs"
TESTED = {"covered", "in part", "otherwise"}
UNTESTED = {"not covered", "cannot occur"}

_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


class Named(NamedTuple):
    """A test that a row names."""

    file: str  # below tests/
    name: str


class Row(NamedTuple):
    case: str  # letter and number
    status: str
    tests: list[Named]
    reason: str


def rows_of(document: str, letter: str) -> list[Row]:
    """The rows of docs/<document> about cases <letter>1, <letter>2, …, in their order."""
    row = re.compile(rf"^\| ({letter}\d+) \| ([^|]+) \| ([^|]+) \| (.+) \|$")
    found = filter(None, map(row.match, (DOCS / document).read_text().splitlines()))
    return [Row(m[1], m[3], _tests(m[4]), _TEST.sub("", m[4]).strip(" ,;")) for m in found]


def docstring(test: Named) -> str | None:
    """What the test says about itself; None if there is no such test."""
    return _docstrings(TESTS / test.file).get(test.name)


def check_status(row: Row) -> None:
    """Assert that a row names tests, or has its reason, as its status says."""
    assert row.status in TESTED | UNTESTED
    assert bool(row.tests) == (row.status in TESTED)
    assert row.reason or row.status == "covered"


def _tests(cell: str) -> list[Named]:
    return [Named(*found) for found in _TEST.findall(cell)]


@cache
def _docstrings(file: Path) -> dict[str, str]:
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {
        node.name: ast.get_docstring(node) or ""
        for node in functions
        if node.name.startswith("test_")
    }
