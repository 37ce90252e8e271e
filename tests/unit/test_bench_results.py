# SPDX-License-Identifier: Apache-2.0
"""What the comparison writes: every field documented, nothing missing without a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.compare import page, traffic
from bench.compare.depth import DEPTHS
from bench.compare.proxies import said_at_the_end
from bench.compare.result import (
    SCHEMA,
    Machine,
    Measurement,
    Missing,
    Result,
    Skipped,
    Variant,
    measurement,
)
from bench.compare.vipbee_agent import sample_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "benchmark-results.md").read_text()


def test_the_documented_schema_is_the_one_written() -> None:
    assert f"`schema` is {SCHEMA}" in DOCUMENT


def test_every_field_of_the_file_is_documented() -> None:
    for kind in (Result, Measurement, Missing, Skipped, Variant, Machine):
        for field in msgspec.structs.fields(kind):
            assert f"`{field.name}`" in DOCUMENT, (kind, field.name)


def test_every_figure_is_documented() -> None:
    tasks = [
        *traffic.connect_tasks(1),
        traffic.paced_task(1),
        traffic.resolve_task(1),
        *traffic.long_tasks(1),
        *traffic.outside_tasks(1),
        *traffic.beside_tasks(1),
    ]
    of_traffic = {figure for task in tasks for figure, _, _ in task.figures}
    of_page = {figure for _, figure, _, _ in page._TABLES}

    undocumented = {name for name in of_traffic | of_page if f"`{name}`" not in DOCUMENT}

    assert undocumented == set()


def test_the_page_says_of_everybody_what_is_missing_and_why(tmp_path: Path) -> None:
    found = _result(sizes=[1, 5_000])
    found.missing.append(Missing("program", "nftables", 5_000, 4, "nft had not finished"))
    found.missing.append(Missing("node_port", "nftables", 1, 6, "no NodePort"))
    found.skipped.append(Skipped("Somebody", "Give him with --somebody."))

    text = page.write(found, tmp_path).read_text()

    missing = text.partition("## Missing")[2]
    everything = "everything, for it was not programmed"
    assert f"* B, 5,000 Services, IPv4: {everything}: nft had not finished" in missing
    assert "* B, 1 Services, IPv6: node port: no NodePort" in missing
    assert "* Somebody: not compared. Give him with --somebody." in missing
    assert "* Everybody: 100, 1,000, 10,000, 100,000 Services: only `make bench`" in missing


def test_a_full_run_without_a_gap_misses_nothing(tmp_path: Path) -> None:
    text = page.write(_result(sizes=list(DEPTHS["full"].sizes)), tmp_path).read_text()

    assert text.partition("## Missing")[2].strip().startswith("Nothing.")


def test_its_own_account_is_that_of_the_measured_family() -> None:
    text = (
        'sync_seconds_sum{ip_family="IPv4"} 3.5\n'
        'sync_seconds_sum{ip_family="IPv6"} 0.01\n'
        'other_sum{ip_family="IPv4"} 7\n'
    )

    assert sample_of(text, "sync_seconds_sum", 4) == 3.5
    assert sample_of(text, "sync_seconds_sum", 6) == 0.01
    assert sample_of('sync_seconds_sum{ip_family="IPv6"} 0.01\n', "sync_seconds_sum", 4) is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("print('unknown flag: --x'); raise SystemExit(3)", "with exit code 3: unknown flag: --x"),
        ("pass", "with exit code 0: without a word"),
    ],
)
def test_a_proxy_that_ended_is_quoted(tmp_path: Path, script: str, said: str) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=file, text=True)
        process.wait()

    assert said_at_the_end(process, log) == said


def test_a_proxy_that_runs_is_not_quoted(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], text=True) as process:
        said = said_at_the_end(process, tmp_path / "none")
        process.kill()

    assert said is None


def _result(*, sizes: list[int]) -> Result:
    variants = [Variant("direct", "A"), Variant("nftables", "B")]
    machine = Machine("6.1", "cpu", 2, 4.0, "system")
    found = Result("2026-01-01T00:00:00", "abc", "quick", machine, variants, sizes)
    for size in sizes:
        for figure in ("connect_p50", "rules", "program", "change"):
            place = "last" if figure == "connect_p50" else ""
            found.measurements.append(
                measurement(figure, "direct", size, 4, place, "µs", [1.0, 2.0])
            )
    return found
