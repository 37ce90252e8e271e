# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.compare [--quick | --smoke]` from the root of the repository, as root."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.compare import page, result
from bench.compare.depth import DEPTHS, Depth
from bench.compare.place import Programs, build
from bench.compare.roster import Candidate, candidates, skipped
from bench.compare.run import Run
from bench.compare.sites import sites
from bench.compare.table import print_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"


def main() -> int:
    options = _parse()
    if os.geteuid() != 0:
        print("the comparison needs root: it makes network namespaces", file=sys.stderr)
        return 2
    if options.page:
        page.write(result.load(options.page), ROOT / "docs")
        return 0
    started = time.monotonic()
    depth = DEPTHS["smoke" if options.smoke else "quick" if options.quick else "full"]
    chosen = candidates(options.kube_proxy, cilium_agent=options.cilium_agent, smoke=options.smoke)
    left_out = skipped(cilium_agent=options.cilium_agent)
    with tempfile.TemporaryDirectory(prefix="vipbee-compare-") as name:
        found = _measure(depth, chosen, build(Path(name)), started)
    found.skipped = left_out
    found.took_s = round(time.monotonic() - started, 1)
    path = result.save(found, options.output)
    print_table(found)
    if options.output == RESULTS and not options.smoke:
        page.write(found, ROOT / "docs")
    print(f"{path} · {found.took_s:.0f} s", file=sys.stderr)
    return 0


def _measure(
    depth: Depth, chosen: list[Candidate], programs: Programs, started: float
) -> result.Result:
    def progress(what: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {what} …", file=sys.stderr, flush=True)

    variants = [result.Variant(candidate.key, candidate.title) for candidate in chosen]
    found = result.new_result(depth.name, variants, list(depth.sizes))
    with sites(chosen, programs, progress) as proxies:
        run = Run(depth, found, progress)
        for size in depth.sizes:
            for family in (4, 6) if size in depth.ipv6_sizes else (4,):
                run.measure(proxies, size, family)
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="5 minutes: to 5,000 Services")
    depth.add_argument("--smoke", action="store_true", help="seconds: proves that it works")
    parser.add_argument(
        "--kube-proxy",
        type=Path,
        metavar="PATH",
        help="the real kube-proxy instead of rule sets as it writes them",
    )
    parser.add_argument(
        "--cilium-agent",
        type=Path,
        metavar="PATH",
        help="Cilium too, with its bpf/ beside it or in /var/lib/cilium, and clang 18.1 or newer "
        "beside it or installed; tried with 1.21.0-dev of August 2026 only",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIRECTORY", default=RESULTS, help="where the JSON goes"
    )
    parser.add_argument(
        "--page", type=Path, metavar="JSON", help="only write docs/benchmarks.md from a result"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
