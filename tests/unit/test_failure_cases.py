# SPDX-License-Identifier: Apache-2.0
"""docs/failure-cases.md lists every case F1 to F72 once, with tests that name it or a reason."""

from __future__ import annotations

import re

import pytest

from tests.support.case_lists import Row, check_status, docstring, rows_of

ROWS = rows_of("failure-cases.md", "F")
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)


def test_every_case_is_listed_once_and_in_order() -> None:
    assert [row.case for row in ROWS] == [f"F{number}" for number in range(1, 73)]


@EACH_ROW
def test_every_test_that_is_named_exists_and_names_the_case(row: Row) -> None:
    for test in row.tests:
        said = docstring(test)
        assert said is not None, test
        assert re.search(rf"\b{row.case}\b", said), test


@EACH_ROW
def test_what_is_not_plainly_covered_has_its_reason(row: Row) -> None:
    check_status(row)
