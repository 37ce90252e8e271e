# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.packets [--quick]` from the root of the repository, as root.

The shipped packet programs under BPF_PROG_TEST_RUN, and with real connections, in
namespaces of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.packets import flood, quality, scale, speed
from bench.packets.driver import Driver
from bench.packets.figures import Figure
from bench.packets.live import measure_live
from bench.packets.sweeping import measure_sweeps
from tests.support.packet_bench import Bench

RESULTS = Path(__file__).resolve().parents[1] / "results"
PORTS = 32_000
FLOWS = 2_000
UNLIMITED = 1 << 30  # refusals: each is paid for


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.packets", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, tables of a tenth")
    quick = parser.parse_args().quick
    if os.geteuid() != 0:
        print("the benchmark needs root: it loads BPF programs", file=sys.stderr)
        return 2
    started = time.monotonic()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="vipbee-bench-") as name:
        with Driver.up(Path(name)) as driver:
            figures += _packets(driver, rounds=7 if quick else 31)
            figures += _scale(driver, rounds=5 if quick else 15, size=10 if quick else 1)
            figures += _quality(driver)
            figures += _floods(driver, tuples=100_000 if quick else 450_000)
        figures += _live(Path(name), rounds=5 if quick else 15)
        figures += _sweeps(50_000 if quick else 500_000)
    _print(figures)
    path = _save(figures, time.monotonic() - started, quick=quick)
    print(f"{path} · {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def _packets(driver: Driver, *, rounds: int) -> list[Figure]:
    _progress("packets")
    room = {f"{name}_new_outside": 1 << 18 for name in ("conntrack", "nat")}
    with Bench.up(sizes=room) as bench:
        cases = {
            **{f"established TCP, NodePort, {n}": c for n, c in speed.established(bench).items()},
            **{f"not ours, {n}": c for n, c in speed.not_ours(bench).items()},
        }
        costs = speed.measure(driver, cases, rounds=rounds, repeat=10_000)
        flows = speed.new_flows(bench)
        # a port for each: 32,768 clients of one backend, the last ones not measured
        new = speed.measure(driver, flows, rounds=rounds, repeat=32_000 // (rounds + 1))
    figures = []
    for name, cost in costs.items():
        detail = f"net {cost.net:.0f}, no-op {cost.plain:.0f}"
        if name.startswith("not ours"):
            figures.append(Figure(f"{name}, over a no-op", cost.net, "ns", 80.0, detail))
        else:
            figures.append(Figure(name, cost.gross, "ns", 350.0, detail))
    for place, cost in new.items():
        detail = f"net {cost.net:.0f}, no-op {cost.plain:.0f}"
        figures.append(Figure(f"new flow (SYN), {place} backend", cost.gross, "ns", 1000.0, detail))
    return figures


def _scale(driver: Driver, *, rounds: int, size: int) -> list[Figure]:
    services, flows = 100_000 // size, 500_000 // size
    _progress(f"{services:,} Services, {flows:,} flows")
    with (
        Bench.up(sizes=scale.sizes(2, 2)) as small,
        Bench.up(sizes=scale.sizes(services, flows)) as large,
    ):
        if small.ifindexes != large.ifindexes:  # both run in the namespace of `large`
            raise RuntimeError("fresh namespaces number their devices differently")
        scale.fill(small, 1, 1)
        scale.fill(large, services // 2, flows // 2)
        few, many = scale.cases(small, 1, 1), scale.cases(large, services // 2, flows // 2)
        cases = {
            **{f"{name}, few": case for name, case in few.items()},
            **{f"{name}, many": case for name, case in many.items()},
        }
        costs = speed.measure(driver, cases, rounds=rounds, repeat=32_000 // (rounds + 1))
        pairs = {
            place: scale.first_and_second(driver, many[f"established, {place}"], rounds=rounds)
            for place in scale.PLACES
        }
    figures = []
    for place in scale.PLACES:
        name = f"established, {place}"
        hot = _ratio(costs, f"{name}, one flow", f"{name}, one flow, always the same flow")
        figures += [hot, _ratio(costs, name, f"{name}, any flow at random")]
        plain, base = costs[f"{name}, few"].plain, costs[f"{name}, few"].gross
        for which, net in zip(("first", "second"), pairs[place], strict=True):
            what = f"{name}, any flow, {which} packet in a second"
            detail = f"{net + plain:.0f} ÷ {base:.0f} ns"
            figures.append(Figure(f"{what} ÷ one of each", (net + plain) / base, "×", None, detail))
        figures.append(_ratio(costs, f"new, {place}", f"new flow, {place}, any Service"))
    figures.insert(0, Figure("Services below", services, "", None, f"{flows:,} live flows"))
    return figures


def _ratio(costs: Mapping[str, speed.Cost], name: str, what: str) -> Figure:
    few, many = costs[f"{name}, few"].gross, costs[f"{name}, many"].gross
    return Figure(f"{what} ÷ one of each", many / few, "×", 2.0, f"{many:.0f} ÷ {few:.0f} ns")


def _quality(driver: Driver) -> list[Figure]:
    _progress("source ports")
    room = {f"{name}_new_outside": 1 << 17 for name in ("conntrack", "nat")}
    config = {**quality.range_of(PORTS), "refusals_per_second": UNLIMITED}
    with Bench.up(sizes=room, **config) as bench:
        found = quality.measure_quality(bench, driver, PORTS)
    of = f"of {PORTS:,} ports; all clients have one source port"
    until_90 = f"{found.failures_until_90} on the way there"
    return [
        Figure(
            "flows to one backend before one is refused",
            found.before_refusal,
            "",
            28_000.0,
            of,
            is_floor=True,
        ),
        Figure("failures up to 75 % of the range", found.failures_until_75, "", 0.0),
        Figure(f"failures of {found.tried} flows at 75 %", found.failures_at_75, "", 0.0),
        Figure(
            f"failures of {found.tried} flows at 90 %",
            100 * found.failures_at_90 / found.tried,
            "%",
            1.0,
            until_90,
        ),
    ]


def _floods(driver: Driver, *, tuples: int) -> list[Figure]:
    figures = []
    with Bench.up(refusals_per_second=UNLIMITED) as bench:
        for kind in flood.FLOODS:
            _progress(f"flood: {kind}")
            bench.reset()
            found = flood.survive(bench, driver, kind, flows=FLOWS, tuples=tuples)
            what = f"of {FLOWS:,} established lost, flood of {tuples:,} ({kind})"
            detail = f"{found.idle_lost} idle, {found.active_lost} active"
            figures.append(Figure(what, found.idle_lost + found.active_lost, "", 0.0, detail))
    return figures


def _live(directory: Path, *, rounds: int) -> list[Figure]:
    _progress("connections")
    figures = []
    with Bench.up(refusals_per_second=UNLIMITED) as bench:
        for place, found in measure_live(bench, directory, rounds=rounds, count=400).items():
            what = f"connect + 1 byte each way from outside, {place} backend"
            detail = f"routed without programs: p50 {found.routed_us:.0f} µs"
            figures.append(Figure(f"{what}: NodePort ÷ routed", found.node_port, "×", 1.12, detail))
            figures.append(Figure(f"{what}: routed beside us ÷ alone", found.beside, "×", 1.03))
    return figures


def _sweeps(entries: int) -> list[Figure]:
    _progress("sweep")
    figures = []
    found_by = measure_sweeps(entries)
    if "in the kernel" not in found_by:
        print("this kernel allows no iterators: it does not sweep by itself", file=sys.stderr)
    for who, times in found_by.items():
        target = 0.5 if who == "in the kernel" else None
        for found in times:
            what = f"sweep {who} of {found.entries:,} connections, {found.removed:,} over"
            detail = f"CPU {found.cpu_s:.2f} s"
            figures.append(Figure(what, found.took_s, "s", target, detail))
            step_target = 1.0 if target else None
            figures.append(Figure("   its longest step", found.longest_step_ms, "ms", step_target))
    return figures


def _progress(what: str) -> None:
    print(f"measuring: {what} …", file=sys.stderr, flush=True)


def _print(figures: list[Figure]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("what", "measured", "target", "verdict", ""):
        table.add_column(title, justify="right" if title in ("measured", "target") else "left")
    for figure in figures:
        style = "green" if figure.is_met else "red"
        verdict = f"[{style}]{figure.verdict}[/]" if figure.verdict else ""
        table.add_row(figure.what, figure.measured, figure.limit, verdict, figure.detail)
    console = Console()
    console = Console(width=None if console.is_terminal else 170)
    console.print(table)


def _save(figures: list[Figure], took_s: float, *, quick: bool) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%S')}-packets-{platform.release()}.json"
    content = {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "quick": quick,
        "took_s": round(took_s, 1),
        "rows": [asdict(figure) | {"met": figure.is_met} for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
