# SPDX-License-Identifier: Apache-2.0
"""What kubectl prints of a cluster, replayed as a state file, gives the tables of the live source.

Of one node: the live source reads its own Node only, so NodePorts of others differ by design.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver.real import RealApiServer, assets
from tests.support.eventually import eventually
from tests.support.manifests import Manifest, echo_service
from vipbee.cli.pinned import open_tables
from vipbee.core.dump import dump
from vipbee.lab import Agent, Lab, endpoints, parse_topology
from vipbee.lab.endpoints import EndpointState

_FOLDER = assets()
KUBECTL = _FOLDER / "kubectl" if _FOLDER else None

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="labs need root"),
    pytest.mark.skipif(
        KUBECTL is None or not KUBECTL.exists(),
        reason="KUBEBUILDER_ASSETS names no folder with kube-apiserver, etcd and kubectl",
    ),
]

TOPOLOGY = """
nodes:
  - name: node-1
    zone: a
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: web-1, app: web, servers: [echo]}
  - name: server
    zone: b
    pods:
      - {name: web-2, app: web, servers: [echo]}
"""
DRAINING = EndpointState(ready=False, serving=True, terminating=True)
PORT = {"name": "echo", "port": 7000}


def services() -> list[Manifest]:
    """One of each kind; the API server completes and defaults them."""
    balanced = echo_service(
        "balanced",
        "10.96.0.13",
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=30901,
        ports=[{**PORT, "nodePort": 30001}],
    )
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.13"}]}}
    six = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
    return [
        echo_service("web", "10.96.0.10", "fd00:10:96::10", **six),
        echo_service("sticky", "10.96.0.11", sessionAffinity="ClientIP"),
        echo_service(
            "near",
            "10.96.0.12",
            internalTrafficPolicy="Local",
            externalIPs=["198.51.100.12"],
        ),
        balanced,
        echo_service("open", "10.96.0.14", type="NodePort", ports=[{**PORT, "nodePort": 30002}]),
        echo_service("empty", "10.96.0.15", selector={"app": "nobody"}),
    ]


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        yield lab


@pytest.fixture
def server(lab: Lab) -> Iterator[RealApiServer]:
    assert _FOLDER is not None
    server = RealApiServer(lab.node("server"), lab.directory, _FOLDER)
    state = endpoints.render_state(lab.blueprint, services(), {"web-1": DRAINING})
    state["nodes"] = [node for node in state["nodes"] if node["metadata"]["name"] == "node-1"]
    try:
        server.start(state)
        yield server
    finally:
        server.close()


def tables(agent: Agent) -> str:
    with open_tables(agent.bpf_root) as opened:
        return dump(opened.snapshot())


def served(agent: Agent, *, kubeconfig: Path | None) -> str:
    """The tables of an agent that begins with nothing, once it is ready."""
    agent.kubeconfig = kubeconfig
    agent.start()
    try:
        agent.wait_ready()
        eventually(lambda: "default/kubernetes" in tables(agent))
        return tables(agent)
    finally:
        agent.kill()
        agent.vipbee(["cleanup"])


def test_what_kubectl_prints_gives_the_tables_of_the_live_source(
    lab: Lab, server: RealApiServer, tmp_path: Path
) -> None:
    """R1-R3, R7: as the account of deploy/ may read it."""
    agent = lab.agent("node-1")
    agent.bpf_root.parent.mkdir(mode=0o700, exist_ok=True)
    argv = [str(KUBECTL), f"--kubeconfig={server.kubeconfig()}", f"--cache-dir={tmp_path}"]
    argv += ["get", "svc,endpointslices,nodes", "-A", "-o", "yaml"]

    live = served(agent, kubeconfig=server.kubeconfig())
    printed = lab.node("server").run(argv, check=True).stdout
    lab.write_state(printed)
    replayed = served(agent, kubeconfig=None)

    assert replayed == live
    for kind in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"):
        assert kind in live
    assert "203.0.113.13" in live
    assert "[fd00:10:96::10]" in live
