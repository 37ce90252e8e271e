# SPDX-License-Identifier: Apache-2.0
"""docs/datapath-cases.md lists every case D1 to D175 once, with tests that exist or a reason."""

from __future__ import annotations

import pytest

from tests.support.case_lists import Row, check_status, docstring, rows_of

ROWS = rows_of("datapath-cases.md", "D")
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)


def test_every_case_is_listed_once_and_in_order() -> None:
    assert [row.case for row in ROWS] == [f"D{number}" for number in range(1, 176)]


@EACH_ROW
def test_every_test_that_is_named_exists(row: Row) -> None:
    for test in row.tests:
        assert docstring(test) is not None, test


@EACH_ROW
def test_what_is_not_plainly_covered_has_its_reason(row: Row) -> None:
    check_status(row)
