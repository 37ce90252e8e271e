# SPDX-License-Identifier: Apache-2.0
"""A reconciler, the tables it keeps, and a Service to give it."""

from __future__ import annotations

import errno

from tests.support.services import endpoint_slice, service
from vipbee.abi import MapName
from vipbee.core.dump import dump
from vipbee.core.plan import Op
from vipbee.core.snapshot import Capacity, Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.errors import KernelError
from vipbee.model import ApiObject
from vipbee.reconcile import Applied, NodeSettings, Reconciler

LAYOUTS = load_layouts()
CAPACITY = Capacity(frontends=24, addresses=24, slots=32, backends=24, services=8)
NOTHING = Applied(0, 0, False)
LOOPBACK = ["address ::1 NODE|HOST_ONLY|OWN", "address 127.0.0.1 NODE|HOST_ONLY|OWN"]


class FailingTables:
    """Memory tables of which one operation can be made to fail."""

    def __init__(self, memory: MemoryTables) -> None:
        self.memory = memory
        self.failing: MapName | None = None

    def apply(self, op: Op) -> None:
        if op.map == self.failing:
            raise KernelError(f"map {op.map} cannot be written", errno.ENOMEM)
        self.memory.apply(op)

    def snapshot(self) -> Snapshot:
        return self.memory.snapshot()


class Node:
    """A reconciler and the tables it keeps."""

    def __init__(self, tables: MemoryTables | None = None, addresses: str = "primary") -> None:
        self.tables = FailingTables(tables or MemoryTables(LAYOUTS, CAPACITY))
        settings = NodeSettings("node-a", addresses)
        self.reconciler = Reconciler(self.tables, LAYOUTS, CAPACITY, settings)
        self.replace, self.begin = self.reconciler.replace, self.reconciler.begin
        self.program, self.audit = self.reconciler.program, self.reconciler.audit

    def lines(self) -> list[str]:
        """The tables as text, without loopback."""
        lines = dump(self.tables.snapshot()).splitlines()
        return [line for line in lines if line not in LOOPBACK]

    def services(self) -> set[str]:
        """Names of Services that have a frontend."""
        lines = [line for line in self.lines() if "cluster=[" in line]
        return {word for line in lines for word in line.split() if word.startswith("default/")}

    def restarted(self) -> Node:
        """Another process on the same tables."""
        other = Node(self.tables.memory)
        other.reconciler.adopt()
        return other


def web(number: int = 10, name: str = "web", backend: int = 1) -> list[ApiObject]:
    """Service default/<name> on 10.96.0.<number> with one endpoint."""
    return [
        service(name, clusterIP=f"10.96.0.{number}"),
        endpoint_slice(f"10.244.0.{backend}", name=f"{name}-1", service=name),
    ]


WEB_LINES = [
    "10.96.0.10:80/TCP ClusterIP default/web: cluster=[10.244.0.1:8080] local=[]",
    "address 10.96.0.10 CLUSTER_IP",
    "backend default/web:/TCP 10.244.0.1:8080 SERVING|IN_CLUSTER|READY",
]
