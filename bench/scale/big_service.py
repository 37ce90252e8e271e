# SPDX-License-Identifier: Apache-2.0
"""One Service with 50,000 endpoints whose slices change a thousand times a second."""

from __future__ import annotations

import statistics
import time
from ipaddress import IPv4Address
from typing import Any

from bench.compare.place import Site
from bench.compare.services import Cluster, Port, Servers, service_object, slice_object
from bench.scale.fed import Fed, by_plural, fed
from bench.scale.many_services import change_endpoints
from bench.sockets.rows import Row

SERVICE, SLICE = "big", 100
RATE = 1_000
_FIRST = IPv4Address("10.150.0.0")


def measure_big_service(site: Site, tenth: int) -> list[Row]:
    """What is programmed at the end, how late other Services are meanwhile, and memory."""
    endpoints, seconds = 50_000 // tenth, 60 // tenth
    cluster = Cluster(1, 4, site.servers(4))
    objects = by_plural(cluster.objects())
    service, slices = _big_service(endpoints, cluster.servers)
    objects["services"].append(service)
    objects["endpointslices"] += slices
    sizes = {"slots": 8 * 50_000, "backends": 8 * 50_000}
    late_ms: list[float] = []
    resident = []
    with fed(site, objects, map_sizes=sizes) as agent:
        agent.tell(f"slices {SERVICE} {RATE} {seconds}")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            late_ms += change_endpoints(agent, cluster, 2)
            resident.append(agent.usage()[1])
        found = agent.tell("wait")
        settled_s = _settle(agent)
    what = f"{endpoints:,} endpoints in one Service, {RATE:,} slice updates/s for {seconds} s"
    writes = f"{found['done']:,} updates, at worst {1e3 * found['late_s']:.0f} ms late"
    third = max(1, len(resident) // 3)
    growth = statistics.median(resident[-third:]) / statistics.median(resident[:third])
    return [
        Row(f"{what}: then exactly what the API server has, after", settled_s, "s", None, writes),
        Row(
            "meanwhile, another Service's endpoint: API write to the first answer, p99",
            sorted(late_ms)[int(len(late_ms) * 0.99)],
            "ms",
            1000.0,
            f"of {len(late_ms)}; p50 {statistics.median(late_ms):.1f} ms",
        ),
        Row("memory, last third ÷ first", growth, "×", 1.05, f"{max(resident):.0f} MiB at most"),
    ]


def _settle(agent: Fed) -> float:
    """Seconds until the programmed backends are those of the slices; RuntimeError after 30."""
    started = time.monotonic()
    wanted = agent.tell(f"addresses {SERVICE}")
    while agent.backends(SERVICE) != wanted:
        if time.monotonic() - started > 30:
            raise RuntimeError("the maps never became what the API server has")
    return time.monotonic() - started


def _big_service(endpoints: int, servers: Servers) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    port = Port(SERVICE, "http", "TCP", "10.97.0.1", 80, ())
    slices = []
    for number in range(endpoints // SLICE):
        first = _FIRST + number * SLICE
        addresses = tuple(str(first + i) for i in range(SLICE))
        manifest = slice_object([Port(SERVICE, "http", "TCP", port.vip, 80, addresses)], 4, servers)
        manifest["metadata"]["name"] = f"{SERVICE}-{number}"
        slices.append(manifest)
    return service_object([port], 4), slices
