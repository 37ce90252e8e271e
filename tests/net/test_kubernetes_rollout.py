# SPDX-License-Identifier: Apache-2.0
"""Everything changes at once around clients that never see a failed request.

Two nodes, each with its agent, follow one API server; clients ask from pods of both nodes and,
through the packet layer, from outside. At each instant at least one endpoint serves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.apiserver.placed import PlacedApiServer
from tests.support.apiserver.real import RealApiServer, assets
from tests.support.eventually import eventually
from tests.support.manifests import Manifest, echo_service
from tests.support.packet_lab import CONFIG
from tests.support.remote import Remote
from vipbee.lab import Lab, endpoints, parse_topology
from vipbee.lab.endpoints import EndpointState
from vipbee.lab.probes import Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: web-1, app: web, servers: [echo]}
      - {name: client-1}
  - name: node-2
    pods:
      - {name: web-2, app: web, servers: [echo]}
      - {name: client-2}
"""
WEB = ("web-0", "web-1", "web-2")
VIP, BALANCER, NODE_PORT = "10.96.0.10", "172.31.0.10", 30010
SIDE_VIPS, SIDE_NODE_PORT = ("10.96.0.20", "10.96.0.21"), 30020
GONE = EndpointState(present=False)
TERMINATING = EndpointState(ready=False, serving=True, terminating=True)
CATCHES_UP_S = 30.0  # the longest pause between attempts is 15 s
Server = PlacedApiServer | RealApiServer
States = Mapping[str, EndpointState]


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        for client in ("client-1", "client-2"):  # an unserved VIP fails at once
            route = ["ip", "route", "add", "unreachable", "10.96.0.0/16"]
            lab.pod(client).run(route, check=True)
        lab.route_vips("node-1")
        yield lab


class Rollout:
    """What is published now, and the requests that must not fail."""

    def __init__(self, lab: Lab, server: Server, client: Remote) -> None:
        self.lab, self.server, self.client = lab, server, client
        self.side: list[Manifest] = []
        self._web: dict[str, Any] = {}
        self._states: States = {}
        self._streams: dict[str, Stream] = {}

    def state(self) -> dict[str, Any]:
        return endpoints.render_state(
            self.lab.blueprint, [self._service(), *self.side], self._states
        )

    def publish(self, states: States | None = None, **web: Any) -> None:
        """Change endpoints or fields of the spec of Service web; what is not named stays."""
        self._states = self._states if states is None else states
        self._web |= web
        self.server.publish(self.state())

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Requests from everywhere, and 5 connections that are held, until the block ends."""
        node = self.lab.node("node-1").ipv4
        addresses = {
            "pod of node-1": (self.lab.pod("client-1"), (VIP, 7000), 5),
            "pod of node-2": (self.lab.pod("client-2"), (VIP, 7000), 5),
            "pod of node-2, NodePort": (self.lab.pod("client-2"), (node, NODE_PORT), 0),
            "outside, NodePort": (self.lab.client, (node, NODE_PORT), 0),
            "outside, load balancer IP": (self.lab.client, (BALANCER, 7000), 0),
        }
        with contextlib.ExitStack() as stack:
            for name, (place, address, held) in addresses.items():
                self._streams[name] = stack.enter_context(Stream(place, address, held=held))
            yield
            self.answers()

    def answers(self) -> dict[str, set[str]]:
        """Who answered each client in its next requests."""
        return {name: set(stream.run_for(20).answers) for name, stream in self._streams.items()}

    def until_answered_by(self, pods: set[str], *, outside: set[str] | None = None) -> None:
        """Wait until each client is answered by these only; the one outside perhaps by fewer."""

        def is_so() -> bool:
            return all(
                who <= (outside if outside and name.startswith("outside") else pods)
                for name, who in self.answers().items()
            )

        eventually(is_so, within_s=CATCHES_UP_S, what=f"only {sorted(pods)} answer")

    def failures(self) -> dict[str, tuple[str, ...]]:
        return {name: s.total.failures for name, s in self._streams.items() if s.total.failures}

    def _service(self) -> Manifest:
        service = echo_service(
            "web",
            VIP,
            **{
                "type": "LoadBalancer",
                "ports": [{"name": "echo", "port": 7000, "nodePort": NODE_PORT}],
                **self._web,
            },
        )
        service["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}
        return service


@pytest.fixture(params=["ours", "real"])
def rollout(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Rollout]:
    """Service web, served by agents of both nodes."""
    server: Server
    if request.param == "ours":
        server = PlacedApiServer(lab.node("node-2"), lab.directory)
    elif folder := assets():
        server = RealApiServer(lab.node("node-2"), lab.directory, folder)
    else:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    config = Path(lab.directory) / "agent.yaml"
    config.write_text(CONFIG)
    try:
        with Remote(lab.pod("client-1")) as one, Remote(lab.client) as outside:
            rollout = Rollout(lab, server, one)
            server.start(rollout.state())
            for agent in lab.agents:
                agent.kubeconfig = server.kubeconfig()
            lab.start_agents((f"--config={config}",))
            eventually(lambda: one.who((VIP, 7000)) in WEB)
            eventually(lambda: outside.who((BALANCER, 7000)) in WEB)
            yield rollout
    finally:
        for agent in lab.agents:
            agent.kill()
            agent.vipbee(["cleanup"])
        server.close()


def test_no_client_sees_a_failure_whatever_is_rolled_out(rollout: Rollout) -> None:
    """R32, R34, R54, R126-R132: endpoints, policies, another Service, restarts of everybody."""
    with rollout.asked():
        for gone in WEB:  # a rolling update: terminating, gone, back
            others = set(WEB) - {gone}
            rollout.publish({gone: TERMINATING})
            rollout.until_answered_by(others)
            rollout.publish({gone: GONE})
            rollout.until_answered_by(others)
        rollout.publish({"web-2": TERMINATING, "web-1": TERMINATING, "web-0": TERMINATING})
        rollout.publish({})

        _change_policies(rollout)
        _change_another_service(rollout)
        _restart_everybody(rollout)

    assert rollout.failures() == {}


def _change_policies(rollout: Rollout) -> None:
    rollout.publish(externalTrafficPolicy="Local")
    rollout.until_answered_by(set(WEB), outside={"web-0", "web-1"})
    rollout.publish(externalTrafficPolicy="Cluster", internalTrafficPolicy="Local")
    rollout.publish(internalTrafficPolicy="Cluster", sessionAffinity="ClientIP")
    rollout.publish(sessionAffinity="None")
    rollout.until_answered_by(set(WEB))


def _change_another_service(rollout: Rollout) -> None:
    """Of every type, made anew with another ClusterIP, and gone."""
    port = {"name": "echo", "port": 7000}
    numbered = {**port, "nodePort": SIDE_NODE_PORT}
    for vip in SIDE_VIPS:
        for type_, ports in (
            ("ClusterIP", [port]),
            ("NodePort", [numbered]),
            ("LoadBalancer", [numbered]),
        ):
            rollout.side = [echo_service("side", vip, type=type_, ports=ports)]
            rollout.publish()
        eventually(lambda vip=vip: rollout.client.who((vip, 7000)) in WEB)
        side = (rollout.lab.node("node-1").ipv4, SIDE_NODE_PORT)
        eventually(lambda side=side: rollout.client.who(side) in WEB)
    eventually(lambda: rollout.client.who((SIDE_VIPS[0], 7000)) not in WEB)
    rollout.side = []
    rollout.publish()
    eventually(lambda: rollout.client.who((SIDE_VIPS[1], 7000)) not in WEB)


def _restart_everybody(rollout: Rollout) -> None:
    """The server goes while agents run, and agents go while endpoints change."""
    rollout.server.kill()
    rollout.answers()
    rollout.server.start(rollout.state())
    for agent in rollout.lab.agents:
        agent.kill()
    rollout.publish({"web-0": GONE})
    rollout.answers()
    for agent in rollout.lab.agents:
        agent.start()
    for agent in rollout.lab.agents:
        agent.wait_ready(CATCHES_UP_S)
    rollout.until_answered_by({"web-1", "web-2"})
    rollout.publish({"web-1": GONE})
    rollout.until_answered_by({"web-0", "web-2"})
