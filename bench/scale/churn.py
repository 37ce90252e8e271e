# SPDX-License-Identifier: Apache-2.0
"""A day of changes in a minute and a half: what is left of it in tables and memory."""

from __future__ import annotations

import time

from bench.compare.place import Site
from bench.compare.services import Cluster
from bench.scale.fed import by_plural, fed
from bench.sockets.rows import Row

SECONDS_OF_A_DAY = 86_400
RATE = 1_000


def measure_churn(site: Site, tenth: int) -> list[Row]:
    seconds, rate = SECONDS_OF_A_DAY / RATE / tenth, RATE
    cluster = Cluster(100, 4, site.servers(4))
    with fed(site, by_plural(cluster.objects()), map_sizes={}) as agent:
        agent.tell(f"churn {rate} {max(3.0, seconds / 10)}")  # caches and pools fill
        time.sleep(3)
        entries, resident = agent.entries(), agent.usage()[1]
        found = agent.tell(f"churn {rate} {seconds}")
        time.sleep(5)
        entries_after, resident_after = agent.entries(), agent.usage()[1]
    left = sum(entries_after.values()) - sum(entries.values())
    detail = f"{found['done']:,} writes, at worst {1e3 * found['late_s']:.0f} ms late"
    grown = f"{resident:.0f} → {resident_after:.0f} MiB"
    return [
        Row("churn: entries left over", left, "", 0.0, detail),
        Row("churn: memory after ÷ before", resident_after / resident, "×", 1.05, grown),
    ]
