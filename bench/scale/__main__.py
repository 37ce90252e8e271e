# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.scale [--quick]` from the root of the repository, as root."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench.compare.place import Site, build
from bench.scale.big_service import measure_big_service
from bench.scale.churn import measure_churn
from bench.scale.many_services import measure_many_services
from bench.sockets.rows import Row, print_rows

_PARTS: dict[str, Callable[[Site, int], list[Row]]] = {
    "many Services": measure_many_services,
    "one Service with very many endpoints": measure_big_service,
    "a day of changes": measure_churn,
}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    tenth = 10 if parser.parse_args().quick else 1
    if os.geteuid() != 0:
        print("the benchmark needs root: it makes network namespaces", file=sys.stderr)
        return 2
    started = time.monotonic()
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="vipbee-scale-") as name,
        contextlib.closing(Site("scale", build(Path(name)))) as site,
    ):
        for what, measure in _PARTS.items():
            print(f"measuring: {what} …", file=sys.stderr, flush=True)
            rows += measure(site, tenth)
    print_rows(rows)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"scale-{time.strftime('%Y-%m-%dT%H%M%S')}-{platform.release()}.json"
    content = [asdict(row) | {"met": row.is_met} for row in rows]
    path.write_text(json.dumps({"quick": tenth > 1, "rows": content}, indent=1) + "\n")
    print(f"{path} · {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
