# SPDX-License-Identifier: Apache-2.0
"""Figures of the probes, and the refusal of a machine without the programs."""

from __future__ import annotations

from collections import Counter

import pytest

from vipbee.errors import EnvironmentUnusable
from vipbee.lab.probes import NOTHING, StreamReport, quantile
from vipbee.lab.programs import require_programs


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)])
def test_quantiles_are_measured_values(share: float, expected: int) -> None:
    assert quantile(range(1, 101), share) == expected


def test_reports_add_up() -> None:
    first = StreamReport(Counter({"web-0": 2}), 3, ("timed out",))
    second = StreamReport(Counter({"web-0": 1, "web-1": 1}), 0, ())

    total = NOTHING + first + second

    assert total == StreamReport(Counter({"web-0": 3, "web-1": 1}), 3, ("timed out",))
    assert total.requests == 8


def test_missing_programs_are_refused_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vipbee.lab.programs.find_program", lambda name: None)

    with pytest.raises(EnvironmentUnusable, match=r"dig, ip, ss .*: apt install bind9-dnsutils ip"):
        require_programs(["ip", "ss", "dig"])
