# SPDX-License-Identifier: Apache-2.0
"""How long until a changed endpoint is where requests go.

The Service in the middle has one endpoint, which moves between this node and the other. A
client dials all the time; the clock runs from the order to the first answer of the new one.
"""

from __future__ import annotations

import json
import subprocess
import time

from bench.compare.proxies import CannotError, Proxy
from bench.compare.result import Measurement, measurement
from bench.compare.services import PORT, Cluster

TRIES = 100_000
PAUSE_S = 1.3
"""Between two changes: kube-proxy may sync once a second, and each change is to be alone."""


def measure_changes(proxy: Proxy, cluster: Cluster, count: int) -> Measurement:
    """Milliseconds; `failed` are requests that failed meanwhile. CannotError if one is lost."""
    places = [("r", cluster.servers.remote), ("l", cluster.servers.local)]
    before = cluster.moving(cluster.servers.local)
    took_ms, failed = [], 0
    for number in range(count):
        byte, address = places[number % 2]
        after = cluster.moving(address)
        waiting = proxy.site.awaiting(before.vip, PORT, byte, TRIES)
        time.sleep(0.1)  # the client dials by then; earlier would do no harm
        try:
            ordered_ns = proxy.change(before, after)
            sample = json.loads(waiting.communicate(timeout=60)[0])
        except subprocess.TimeoutExpired:
            raise CannotError("it never changed to the new endpoint") from None
        finally:
            waiting.kill()
            waiting.wait()
        if not sample["answered_ns"]:
            raise CannotError("it never changed to the new endpoint")
        took_ms.append((sample["answered_ns"] - ordered_ns) / 1e6)
        failed += sample["failed"]
        before = after
        time.sleep(PAUSE_S)
    return measurement(
        "change", proxy.key, cluster.services, cluster.family, "", "ms", took_ms, failed=failed
    )
