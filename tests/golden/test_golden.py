# SPDX-License-Identifier: Apache-2.0
"""One file per feature: Kubernetes objects in, what the tables then hold out.

`X.yaml` is a stream of steps, `X.txt` what is to be there after each. A step:

    step: what happens
    node: {zone: a, nodeport: [192.168.0.1], labels: {}}    # optional, stays; it is node-a
    allowed: {external-ips: [198.51.100.0/24]}  # optional, first step only: the agent's options
    apply: [objects, ...]
    delete: [Service default/web, ...]

`VIPBEE_UPDATE_GOLDEN=1 pytest tests/golden` rewrites the texts: read the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.checked_tables import CheckedTables
from vipbee.address import parse_address
from vipbee.config import load_config
from vipbee.core.allowed_addresses import ALL_ALLOWED, AllowedAddresses
from vipbee.core.dump import dump
from vipbee.core.snapshot import Capacity
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.model import ApiObject
from vipbee.reconcile import NodeSettings, Reconciler
from vipbee.sources.decode import decode_objects

FOLDER = Path(__file__).parent
FEATURES = sorted(FOLDER.glob("*.yaml"))
CAPACITY = Capacity(frontends=64, addresses=64, slots=128, backends=64, services=32)
LAYOUTS = load_layouts()


class Cluster:
    """All objects there are, and a node that keeps its tables in step with them."""

    def __init__(self, allowed: AllowedAddresses = ALL_ALLOWED) -> None:
        self.allowed = allowed
        self.objects: dict[str, ApiObject] = {}
        self.addresses: tuple[bytes, ...] = ()
        self.tables = CheckedTables(LAYOUTS, CAPACITY)
        self.reconciler = Reconciler(
            self.tables,
            LAYOUTS,
            CAPACITY,
            NodeSettings("node-a", "0.0.0.0/0,::/0", allowed=allowed),
        )

    def take(self, step: dict[str, Any]) -> None:
        for name in step.get("delete", ()):
            del self.objects[name]
        given = list(step.get("apply", ()))
        if "node" in step:
            self.addresses = tuple(parse_address(a) for a in step["node"].get("nodeport", ()))
            labels = {"topology.kubernetes.io/zone": step["node"].get("zone", "")}
            labels |= step["node"].get("labels", {})
            given.append({"kind": "Node", "metadata": {"name": "node-a", "labels": labels}})
        for item in given:
            is_slice = item["kind"] == "EndpointSlice"
            item["apiVersion"] = "discovery.k8s.io/v1" if is_slice else "v1"
            document = json.dumps({"apiVersion": "v1", "kind": "List", "items": [item]})
            decoded = decode_objects(document.encode(), source="golden")
            assert decoded.problems == ()
            meta = item["metadata"]
            name = f"{item['kind']} {meta.get('namespace', 'default')}/{meta['name']}"
            self.objects[name] = decoded.objects[0]
        self.reconciler.set_local_addresses(self.addresses)
        self.reconciler.replace("golden", list(self.objects.values()))
        if self.reconciler.begun:
            self.reconciler.program()
        else:
            self.reconciler.begin()

    def text(self) -> str:
        problems = "".join(
            f"{'error' if problem.is_error else 'warning'}: {problem.object}: {problem.message}\n"
            for problem in self.reconciler.problems()
        )
        # loopback serves NodePorts on every node: said once, in nodeport.yaml
        lines = dump(self.tables.snapshot()).splitlines(keepends=True)
        return "".join(line for line in lines if "HOST_ONLY" not in line) + problems

    def is_in_step(self) -> bool:
        """Programming or auditing again writes nothing."""
        before = self.tables.entries
        self.reconciler.begin()
        self.reconciler.audit()
        return self.tables.entries == before

    def fresh_text(self) -> str:
        """What a node shows that sees only the objects of now."""
        other = Cluster(self.allowed)
        other.tables.is_checked = False
        other.objects, other.addresses = self.objects, self.addresses
        other.take({})
        return other.text()

    def restarted_text(self) -> str:
        """What is there after another process adopted the tables."""
        other = Cluster(self.allowed)
        other.tables.memory = self.tables.memory
        other.objects, other.addresses = self.objects, self.addresses
        other.reconciler.adopt()
        other.take({})
        other.reconciler.audit()
        assert other.tables.entries == 0, "a restart rewrote what was already there"
        return other.text()


def allowed_by(options: dict[str, Any]) -> AllowedAddresses:
    return load_config(None, {"state-file": "-", **options})[0].allowed


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_tables_after_each_step(path: Path) -> None:
    steps = list(steps_of(path))
    cluster = Cluster(allowed_by(steps[0].get("allowed", {})))
    shown = []

    for step in steps:
        cluster.take(step)
        shown.append(f"# {step['step']}\n{cluster.text()}")

        assert cluster.is_in_step(), step["step"]
        assert cluster.fresh_text() == cluster.text()
        assert cluster.restarted_text() == cluster.text()

    actual = "\n".join(shown)
    golden = path.with_suffix(".txt")
    if os.environ.get("VIPBEE_UPDATE_GOLDEN"):
        golden.write_text(actual)
    assert golden.read_text() == actual


def test_every_text_has_its_feature() -> None:
    texts = {path.stem for path in FOLDER.glob("*.txt")}

    assert {path.stem for path in FEATURES} == texts


def test_loopback_serves_node_ports_for_programs_on_the_node() -> None:
    """R91 as profiled in ARCHITECTURE: on for the node itself, never from outside."""
    cluster = Cluster()
    cluster.take({"node": {"nodeport": ["192.168.0.1"]}})

    assert dump(cluster.tables.snapshot()).splitlines() == [
        "address ::1 NODE|HOST_ONLY|OWN",
        "address 127.0.0.1 NODE|HOST_ONLY|OWN",
        "address 192.168.0.1 NODE|OWN",
    ]


def test_tables_of_memory_are_the_ones_that_ship() -> None:
    assert isinstance(Cluster().tables.memory, MemoryTables)
