# SPDX-License-Identifier: Apache-2.0
"""Every rule of the Service semantics is named by a test, and the README says by which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("unit", "golden", "bpf", "net", "kernels", "image")
_ROW = re.compile(r"^\| R(\d+)–R(\d+) \| [^|]+ \| ([^|]+) \|$|^\| R(\d+) \| [^|]+ \| ([^|]+) \|$")
_NAMED = re.compile(r"\bR(\d+)(?:\s*[-–]\s*R(\d+))?\b")
LAST_RULE = 132


def rows() -> list[tuple[range, set[str]]]:
    """(rules, folders of tests) by row of the README's table."""
    found = []
    for line in (ROOT / "README.md").read_text().splitlines():
        if match := _ROW.match(line):
            first, last, folders, only, only_folders = match.groups()
            first, last, folders = first or only, last or only, folders or only_folders
            found.append((range(int(first), int(last) + 1), set(folders.split(", "))))
    return found


def named(folder: Path) -> Iterator[int]:
    """Rules that the files of a folder name: R5, or a span, R5-R9."""
    for path in folder.rglob("*"):
        if path.suffix not in (".py", ".yaml") or path == Path(__file__):
            continue
        for first, last in _NAMED.findall(path.read_text()):
            yield from range(int(first), int(last or first) + 1)


@pytest.fixture(scope="module")
def tested() -> dict[str, set[int]]:
    return {kind: set(named(ROOT / "tests" / kind)) for kind in KINDS}


def test_rows_of_the_readme_cover_all_rules_once() -> None:
    assert [rule for rules, _ in rows() for rule in rules] == list(range(1, LAST_RULE + 1))


def test_every_rule_is_named_by_a_test(tested: dict[str, set[int]]) -> None:
    everywhere = set().union(*tested.values())
    assert set(range(1, LAST_RULE + 1)) - everywhere == set()


def test_each_row_names_only_folders_with_tests_of_its_rules(
    tested: dict[str, set[int]],
) -> None:
    for rules, folders in rows():
        true = {f"`{kind}`" for kind in KINDS if not tested[kind].isdisjoint(rules)}
        assert folders, rules
        assert folders <= true, rules
