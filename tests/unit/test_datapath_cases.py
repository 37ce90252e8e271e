# SPDX-License-Identifier: Apache-2.0
"""docs/datapath-cases.md lists every case D1 to D175 once, with tests that exist or a reason."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LIST = REPOSITORY / "docs" / "datapath-cases.md"
CASES = range(1, 176)
TESTED = {"covered", "in part", "otherwise"}
UNTESTED = {"not covered", "cannot occur"}

_ROW = re.compile(r"^\| D(\d+) \| ([^|]+) \| ([^|]+) \| (.+) \|$")
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


class Row(NamedTuple):
    number: int
    status: str
    tests: list[tuple[str, str]]
    reason: str


def rows() -> list[Row]:
    lines = LIST.read_text().splitlines()
    found = [match for match in map(_ROW.match, lines) if match]
    return [
        Row(int(m[1]), m[3], _TEST.findall(m[4]), _TEST.sub("", m[4]).strip(" ,;")) for m in found
    ]


@cache
def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_case_is_listed_once_and_in_order() -> None:
    assert [row.number for row in rows()] == list(CASES)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"D{row.number}")
def test_every_test_that_is_named_exists(row: Row) -> None:
    for file, name in row.tests:
        assert name.startswith("test_")
        assert name in functions_of(REPOSITORY / "tests" / file)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"D{row.number}")
def test_what_is_not_plainly_covered_has_its_reason(row: Row) -> None:
    assert row.status in TESTED | UNTESTED
    assert bool(row.tests) == (row.status in TESTED)
    assert row.reason or row.status == "covered"
