# SPDX-License-Identifier: Apache-2.0
"""The comparison's harness works: every proxy serves, and nothing is missing silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.compare import page, result
from bench.compare.depth import DEPTHS
from bench.compare.place import build
from bench.compare.roster import candidates
from bench.compare.run import Run
from bench.compare.sites import sites

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def test_every_proxy_serves_every_task(tmp_path: Path) -> None:
    """What is measured of whom: all tasks of all proxies, and no request fails."""
    chosen = candidates(None, smoke=True)
    depth = DEPTHS["smoke"]
    (size,) = depth.sizes
    variants = [result.Variant(who.key, who.title) for who in chosen]
    found = result.new_result(depth.name, variants, [size])

    with sites(chosen, build(tmp_path)) as proxies:
        run = Run(depth, found, lambda _: None)
        for family in (4, 6):
            run.measure(proxies, size, family)

    assert {(miss.figure, miss.variant) for miss in found.missing} == {("node_port", "vipbee")}
    assert [m.key for m in found.measurements if m.failed] == []
    everybody = {who.key for who in chosen}
    for family in (4, 6):
        for figure, place in (("connect_p50", "first"), ("connect_p50", "last"), ("bulk", "last")):
            measured = {
                key
                for key in everybody
                if found.find(figure, key, size, family=family, place=place)
            }
            assert measured == everybody, (figure, place, family)
    rules = {key: found.find("rules", key, size).value for key in everybody}  # type: ignore[union-attr]
    assert rules["vipbee"] == rules["vipbee-packets"] == rules["direct"] == 0
    assert rules["iptables-legacy"] > size * _rules_of_one_service()
    assert rules["nftables"] > size

    again = result.load(result.save(found, tmp_path))
    text = page.write(again, tmp_path / "docs").read_text()
    assert again.measurements == found.measurements
    assert "| VIP ÷ direct, connect p50" in text
    assert (tmp_path / "docs" / "benchmarks-latency.svg").read_text().count("<svg") == 1


def _rules_of_one_service() -> int:
    """An entry, a mark, and for each of five endpoints a choice and two rules."""
    return 2 + 5 * 3
