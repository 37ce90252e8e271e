# SPDX-License-Identifier: Apache-2.0
"""From parsed objects to the kernel: everything at once, and one endpoint at a time."""

from __future__ import annotations

import gc
import random
import time

import msgspec
import numpy as np

from bench.sockets import state
from tests.support.hooked import Hooked
from vipbee.model import EndpointSlice
from vipbee.reconcile import NodeSettings, Reconciler
from vipbee.sources.decode import decode_objects


def program_all(hooked: Hooked, services: int, endpoints: int) -> tuple[Reconciler, float, float]:
    """Program a cluster from a parsed state file; returns seconds, and seconds of CPU."""
    assert hooked.tables is not None
    decoded = decode_objects(state.state_file(services, endpoints), source="bench")
    tables = hooked.tables
    reconciler = Reconciler(tables, hooked.layouts, tables.capacity, NodeSettings("bench"))
    gc.collect()
    started, cpu = time.perf_counter(), time.process_time()
    reconciler.replace("bench", decoded.objects)
    applied = reconciler.begin()
    took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    if applied.services != services or reconciler.problems():
        raise RuntimeError(f"not everything was programmed: {reconciler.problems()[:3]}")
    return reconciler, took_s, cpu_s


def change_endpoints(
    reconciler: Reconciler, *, services: int, endpoints: int, changes: int
) -> tuple[float, float]:
    """One more endpoint for a random Service, so many times; (p50, p99) in ms.

    From the decoded slice to the last entry written. The slices come from sources of
    their own, as from a directory.
    """
    took_ms = []
    for service in random.Random(1).sample(range(1, services), changes):
        added = state.endpoint_slice(service, 1, first=endpoints, name="added")
        changed = msgspec.convert(added, EndpointSlice)
        started = time.perf_counter()
        reconciler.replace(f"added-{service}", (changed,))
        applied = reconciler.program()
        took_ms.append((time.perf_counter() - started) * 1e3)
        reconciler.reclaim()
        if applied.services != 1:
            raise RuntimeError("a change of one endpoint was not seen")
    return float(np.percentile(took_ms, 50)), float(np.percentile(took_ms, 99))
