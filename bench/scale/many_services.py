# SPDX-License-Identifier: Apache-2.0
"""Many Services: cold start, memory, one change, one replacement under load, idling."""

from __future__ import annotations

import json
import statistics
import time

from bench.compare.place import Site
from bench.compare.services import PORT, Cluster, Port, slice_object
from bench.scale.fed import Fed, by_plural, fed
from bench.sockets.rows import Row

ENDPOINTS = 10
CONNECTS_PER_S = 5_000
TRIES = 100_000


def measure_many_services(site: Site, tenth: int) -> list[Row]:
    services = 10_000 // tenth
    size = f"{services:,} × {ENDPOINTS}"
    cluster = Cluster(services, 4, site.servers(4), ENDPOINTS)
    rows = []
    with fed(site, by_plural(cluster.objects()), map_sizes={}) as agent:
        rows.append(Row(f"cold start to ready, {size}", agent.started_s, "s", 2.0))
        time.sleep(3)
        rows.append(Row(f"memory (RSS) then, {size}", agent.usage()[1], "MiB", 200.0))
        took_ms = change_endpoints(agent, cluster, 60 // tenth)
        p50, p99 = statistics.median(took_ms), sorted(took_ms)[int(len(took_ms) * 0.99)]
        what = "one endpoint changed, API write to the first answer of it"
        rows.append(Row(f"{what}, p50, {size}", p50, "ms", 15.0, f"of {len(took_ms)}"))
        rows.append(Row(f"{what}, p99, {size}", p99, "ms", 50.0))
        rows.append(_replacement(agent, cluster, 5))
        before = agent.usage()[0]
        idle_s = 60 / tenth
        time.sleep(idle_s)
        share = 100 * (agent.usage()[0] - before) / idle_s
        rows.append(Row(f"CPU while idle, {size}", share, "%", 0.5, f"{idle_s:.0f} s"))
    return rows


def change_endpoints(agent: Fed, cluster: Cluster, count: int) -> list[float]:
    """Milliseconds from the write of a slice to the first answer of its new endpoint."""
    before = cluster.moving(cluster.servers.local)
    took_ms = []
    for number in range(count):
        byte, address = [("r", cluster.servers.remote), ("l", cluster.servers.local)][number % 2]
        after = cluster.moving(address)
        waiting = agent.site.awaiting(before.vip, PORT, byte, TRIES)
        time.sleep(0.1)  # until it dials
        written_ns = agent.tell(_put_slice(after, cluster))
        sample = json.loads(waiting.communicate(timeout=60)[0])
        took_ms.append((sample["answered_ns"] - written_ns) / 1e6)
        before = after
    return took_ms


def _replacement(agent: Fed, cluster: Cluster, count: int) -> Row:
    """The only endpoint becomes another one while an open loop of connections goes on."""
    failed = done = 0
    for number in range(count):
        address = (cluster.servers.remote, cluster.servers.local)[number % 2]
        vip = cluster.moving(address).vip
        loading = agent.site.start_load("pace", CONNECTS_PER_S, vip, PORT, str(CONNECTS_PER_S))
        time.sleep(0.5)
        agent.tell(_put_slice(cluster.moving(address), cluster))
        sample = json.loads(loading.communicate(timeout=60)[0])
        failed, done = failed + sample["failed"], done + sample["done"]
    what = f"requests failed, only endpoint replaced {count} times, {CONNECTS_PER_S:,}/s"
    return Row(what, failed, "", 0.0, f"of {done + failed:,}")


def _put_slice(port: Port, cluster: Cluster) -> str:
    return f"put endpointslices {json.dumps(slice_object([port], 4, cluster.servers))}"
