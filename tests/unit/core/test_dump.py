# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from tests.support.service_ports import BOTH, CAPACITY, backend, by_service, service_port
from vipbee.core.desired import Desired
from vipbee.core.dump import dump
from vipbee.core.snapshot import Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables

LAYOUTS = load_layouts()


def tables() -> Snapshot:
    memory = MemoryTables(LAYOUTS, CAPACITY)
    ports = (
        service_port("web", [1], [backend(2, BOTH), 1], affinity_timeout_s=10),
        service_port("api", [2], [3]),
    )
    for op in Desired(LAYOUTS, CAPACITY).update(by_service(*ports)):
        memory.apply(op)
    return memory.snapshot()


def test_a_dump_shows_names_and_addresses() -> None:
    assert dump(tables()).splitlines() == [
        "10.96.0.1:80/TCP ClusterIP default/web: affinity=10s"
        " cluster=[10.244.0.1:8080,10.244.0.2:8080] local=[10.244.0.2:8080]",
        "10.96.0.2:80/TCP ClusterIP default/api: cluster=[10.244.0.3:8080] local=[]",
        "address 10.96.0.1 CLUSTER_IP",
        "address 10.96.0.2 CLUSTER_IP",
        "backend default/api:/TCP 10.244.0.3:8080 SERVING|IN_CLUSTER|READY",
        "backend default/web:/TCP 10.244.0.1:8080 SERVING|IN_CLUSTER|READY",
        "backend default/web:/TCP 10.244.0.2:8080 SERVING|IN_CLUSTER|IN_LOCAL|ON_NODE|READY",
    ]


def test_a_dump_shows_what_is_broken() -> None:
    snapshot = tables()
    (web,) = np.flatnonzero(snapshot.frontends["affinity_timeout_s"])
    first = int(snapshot.frontends["cluster"]["first"][web])
    snapshot.slots[first] = 20
    snapshot.slots[first + 1] = 3
    snapshot.frontends["cluster"]["count"][1 - web] = 99
    snapshot.frontends["kind"][1 - web] = 9

    lines = dump(snapshot).splitlines()

    assert "cluster=[dead,of another Service]" in lines[0]
    assert "kind9" in lines[1]
    assert "cluster=[out of range]" in lines[1]
