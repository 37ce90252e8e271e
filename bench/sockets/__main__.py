# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.sockets [--quick]` from the root of the repository, as root."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from bench.sockets import state
from bench.sockets.agent import measure_agent
from bench.sockets.build import Built, build
from bench.sockets.cluster import cluster
from bench.sockets.connections import connect_ratio
from bench.sockets.hooks import Cost, measure
from bench.sockets.programming import change_endpoints, program_all
from bench.sockets.rows import Row, print_rows

ENDPOINTS = 10
SIZES = (1, 1_000, 10_000, 100_000)
PROGRAMMING_TARGETS_S = {10_000: 0.5, 100_000: 5.0}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sockets", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 minutes: without 100,000 Services")
    quick = parser.parse_args().quick
    if os.geteuid() != 0:
        print("the benchmark needs root: it loads BPF programs", file=sys.stderr)
        return 2
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vipbee-bench-") as name:
        directory = Path(name)
        rows = _measure_all(build(directory), directory, quick=quick)
    print_rows(rows)
    path = _save(rows, time.monotonic() - started)
    print(f"{path} · {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def _measure_all(built: Built, directory: Path, *, quick: bool) -> list[Row]:
    rows = _hook_rows(built, rounds=5 if quick else 15)
    ratios: dict[int, tuple[float, float]] = {}
    programming: list[Row] = []
    for services in SIZES[:-1] if quick else SIZES:
        _progress(f"{services:,} Services × {ENDPOINTS} endpoints")
        with cluster(built, services=services, endpoints=ENDPOINTS) as hooked:
            reconciler, took_s, cpu_s = program_all(hooked, services, ENDPOINTS)
            ratios[services] = connect_ratio(hooked, built, rounds=5 if quick else 11, count=2000)
            if services in PROGRAMMING_TARGETS_S:
                what = f"program {services:,} × {ENDPOINTS} from parsed objects"
                target = PROGRAMMING_TARGETS_S[services]
                programming.append(Row(what, took_s, "s", target, f"CPU {cpu_s:.2f} s"))
            if services == 10_000:
                p50, p99 = change_endpoints(
                    reconciler, services=services, endpoints=ENDPOINTS, changes=300
                )
                what = f"one endpoint changed at {services:,} Services, decoded to visible"
                programming.append(Row(f"{what}, p50", p50, "ms", 5.0))
                programming.append(Row(f"{what}, p99", p99, "ms", 50.0))
    for services, (ratio, p50_us) in ratios.items():
        what = f"connect + 1 byte each way, VIP ÷ direct, {services:,} Services"
        rows.append(Row(what, ratio, "×", 1.05, f"VIP p50 {p50_us:.1f} µs"))
    first, *_, last = ratios.values()
    rows.append(Row("the last ÷ the first of these", last[0] / first[0], "×", 1.05))
    rows += programming
    rows += _agent_rows(built, directory, services=10_000)
    return rows


def _hook_rows(built: Built, *, rounds: int) -> list[Row]:
    _progress("hooks")
    with cluster(built, services=1, endpoints=1) as hooked:
        program_all(hooked, 1, 1)
        cost = measure(
            hooked,
            built,
            {
                "VIP": ("connect", state.vip(0), 80),
                "no VIP": ("connect", state.DIRECT, state.PORT),
                "VIP, UDP": ("udp", state.vip(0), 53),
                "no VIP, UDP": ("udp", state.DIRECT, state.PORT),
            },
            rounds=rounds,
        )
    rows = []
    for traffic, target in (("VIP", 350.0), ("no VIP", 60.0)):
        hooks = (cost[traffic]["connect4"], cost[traffic]["sock_release"])
        rows += _cost_rows(f"hooks of a TCP connection, {traffic}", hooks, target)
    for hook, target in (("sendmsg4", 150.0), ("recvmsg4", 100.0)):
        rows += _cost_rows(
            f"{hook[:-1]} hook, unconnected UDP, VIP", (cost["VIP, UDP"][hook],), target
        )
        rows += _cost_rows(
            f"{hook[:-1]} hook, unconnected UDP, no VIP", (cost["no VIP, UDP"][hook],), None
        )
    return rows


def _cost_rows(what: str, hooks: tuple[Cost, ...], target: float | None) -> list[Row]:
    noop = sum(hook.noop for hook in hooks)
    return [
        Row(
            f"{what}, gross",
            sum(hook.gross for hook in hooks),
            "ns",
            target,
            " + ".join(f"{hook.gross:.0f}" for hook in hooks),
        ),
        Row(f"{what}, net", sum(hook.net for hook in hooks), "ns", target, f"no-op {noop:.0f}"),
    ]


def _agent_rows(built: Built, directory: Path, *, services: int) -> list[Row]:
    _progress(f"agent at {services:,} Services")
    with cluster(built, services=services, endpoints=ENDPOINTS, loaded=False) as hooked:
        found = measure_agent(hooked, built, directory, services, ENDPOINTS)
    size = f"{services:,} × {ENDPOINTS}"
    lag = f"of {found.opened:,}; errno {found.last_error}; at worst {found.late_ms:.0f} ms behind"
    return [
        Row(f"agent start to ready on nothing, {size}", found.first_ready_s, "s"),
        Row(f"agent memory (RSS) at {size}", found.rss_mib, "MiB", 200.0),
        Row(f"agent memory at its peak (HWM), {size}", found.peak_mib, "MiB"),
        Row(f"agent start to ready on adopted pins, {size}", found.restart_ready_s, "s", 2.0),
        Row("connections failed meanwhile, 5,000/s", found.failed, "", 0.0, lag),
    ]


def _progress(what: str) -> None:
    print(f"measuring: {what} …", file=sys.stderr, flush=True)


def _save(rows: list[Row], took_s: float) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y-%m-%dT%H%M%S')}-{platform.release()}.json"
    content = {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "took_s": round(took_s, 1),
        "rows": [asdict(row) | {"met": row.is_met} for row in rows],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
