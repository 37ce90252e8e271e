# SPDX-License-Identifier: Apache-2.0
"""`Lab`: a running cluster of namespaces, and what a test does to it.

with Lab.up(load_topology(path)) as lab:
    lab.pod("client-0").run(["curl", "http://10.96.0.10/"])
    lab.set_ready("web-0", False)
    lab.agent("node-1").restart()
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import yaml

from vipbee.errors import UsageError
from vipbee.lab import cgroups, endpoints, namespaces, servers, teardown
from vipbee.lab.agent import Agent
from vipbee.lab.blueprint import PlaceKind, PlacePlan, draw_blueprint
from vipbee.lab.endpoints import READY, EndpointState, Manifest
from vipbee.lab.place import Place
from vipbee.lab.programs import require_programs
from vipbee.lab.topology import Topology, check_lab_name, load_topology
from vipbee.lab.wiring import plan_wiring, vip_routes

SERVER_TIMEOUT_S = 15.0
RECORD = "topology.json"
_BY_HAND = 1000  # Services in a state file that somebody may edit


class Lab:
    """A lab that is up. Made by `up` (builds it) or `open` (finds it)."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.blueprint = draw_blueprint(topology)
        self.directory = teardown.run_directory(topology.name)
        self.state_file = self.directory / "state.yaml"
        self.services: list[Manifest] = list(topology.services)
        self._mount = cgroups.find_cgroup2()
        self._states: dict[str, EndpointState] = {}
        self._agents: dict[str, Agent] = {}
        self._servers: list[subprocess.Popen[str]] = []

    # ---- life ------------------------------------------------------------------

    @classmethod
    def up(
        cls,
        topology: Topology | Path | str,
        *,
        name: str | None = None,
        agents: bool = True,
        agent_options: tuple[str, ...] = (),
    ) -> Lab:
        """Build the lab and wait until servers (and agents) are ready.

        Replaces a lab of the same name, running or left over. On any failure, also
        Ctrl-C, what was built is removed again. `agent_options` go to every agent.
        """
        teardown.require_root()
        if not isinstance(topology, Topology):
            topology = load_topology(Path(topology))
        if name is not None:
            check_lab_name(name)
            topology = msgspec.structs.replace(topology, name=name)
        require_programs(_programs(topology))
        teardown.tear_down(topology.name)
        lab = cls(topology)
        try:
            lab._build()
            if agents:
                lab.start_agents(agent_options)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def open(cls, name: str) -> Lab:
        """Find the running lab `name`; UsageError if there is none."""
        record = teardown.run_directory(name) / RECORD
        try:
            topology = msgspec.json.decode(record.read_bytes(), type=Topology)
        except FileNotFoundError:
            raise UsageError(f"no lab {name} is up: start one with `vipbee lab up FILE`") from None
        return cls(topology)

    def down(self) -> None:
        """Remove the lab; no error if it is gone already."""
        teardown.tear_down(self.topology.name)
        for process in self._servers:
            process.wait()  # killed above; leaves no zombie
        self._servers.clear()
        for agent in self._agents.values():
            agent.kill()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    # ---- places ------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.topology.name

    @property
    def client(self) -> Place:
        """The outside client: on the nodes' network, without a route to pods."""
        return self._place(self.blueprint.client)

    def place(self, name: str) -> Place:
        """A node, a pod or `client`, by name; UsageError if there is none."""
        return self._place(self.blueprint.place(name))

    def pod(self, name: str) -> Place:
        return self._place_of_kind(name, PlaceKind.POD)

    def node(self, name: str) -> Place:
        return self._place_of_kind(name, PlaceKind.NODE)

    @property
    def pods(self) -> list[Place]:
        return [self._place(plan) for plan in self.blueprint.pods]

    @property
    def nodes(self) -> list[Place]:
        return [self._place(node.place) for node in self.blueprint.nodes]

    # ---- agents ------------------------------------------------------------------

    def agent(self, node: str) -> Agent:
        """The agent of a node, running or not."""
        if node not in self._agents:
            place = self.node(node)
            self._agents[node] = Agent(
                place=Place(place.plan, place.cgroup / "agent"),
                node_cgroup=place.cgroup,
                bpf_root=teardown.pin_directory(self.name) / node,
                state_file=self.state_file,
                log=self.directory / "logs" / f"agent-{node}.log",
            )
        return self._agents[node]

    @property
    def agents(self) -> list[Agent]:
        return [self.agent(node.place.name) for node in self.blueprint.nodes]

    def start_agents(self, options: tuple[str, ...] = ()) -> None:
        """Start every node's agent and wait until all are ready."""
        teardown.mount_bpffs()
        teardown.pin_directory(self.name).mkdir(mode=0o700, exist_ok=True)
        for agent in self.agents:
            agent.options = options
            agent.start()
        for agent in self.agents:
            agent.wait_ready()

    def route_vips(self, node: str) -> None:
        """Let the outside client send load balancer IPs and externalIPs to this node."""
        for line in vip_routes(self.node(node).plan):
            family = ("-6",) if "::" in line else ()
            self.client.run(["ip", *family, *line.split()], check=True)

    # ---- Services ------------------------------------------------------------------

    def write_state(self, state: Mapping[str, Any] | str) -> None:
        """Replace the agents' state file, atomically: YAML text, or objects as in it."""
        text = state if isinstance(state, str) else _dump(dict(state))
        temporary = self.state_file.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(self.state_file)

    def publish(self) -> None:
        """Write the state file from `services` and the pods' endpoint states."""
        self.write_state(endpoints.render_state(self.blueprint, self.services, self._states))

    def set_ready(self, pod: str, ready: bool) -> None:
        """Pass or fail the pod's readiness probe."""
        self.set_endpoint(pod, replace(self._state(pod), ready=ready, serving=ready))

    def remove_endpoint(self, pod: str) -> None:
        self.set_endpoint(pod, replace(self._state(pod), present=False))

    def add_endpoint(self, pod: str) -> None:
        """Undo remove_endpoint and set_ready."""
        self.set_endpoint(pod, READY)

    def set_endpoint(self, pod: str, state: EndpointState) -> None:
        """Set all conditions of the pod's endpoints and publish."""
        self._states[self.pod(pod).name] = state
        self.publish()

    # ---- private ------------------------------------------------------------------

    def _build(self) -> None:
        teardown.make_directory(self.directory)
        (self.directory / RECORD).write_bytes(msgspec.json.encode(self.topology))
        for place in (*self.nodes, *self.pods, self.client):
            teardown.make_directory(place.cgroup)
        for agent in self.agents:
            agent.place.cgroup.mkdir()
        namespaces.make_namespaces(self.blueprint.namespaces)
        namespaces.wire_namespaces(
            plan_wiring(self.blueprint), fabric=self.blueprint.fabric_namespace
        )
        self.publish()
        self._start_servers()

    def _start_servers(self) -> None:
        """Start all, then wait for each to accept on IPv4 and IPv6."""
        records = endpoints.dns_records(self.services)
        started = []
        for pod in self.pods:
            for kind, port in pod.plan.servers:
                directory = self.directory / "servers" / f"{pod.name}-{kind}-{port}"
                directory.mkdir(parents=True)
                plan = servers.plan_server(
                    pod.plan, kind, port, directory=directory, dns_records=records
                )
                for file, text in plan.files.items():
                    (directory / file).write_text(text)
                log = self.directory / "logs" / f"{pod.name}-{plan.name}.log"
                process = pod.start_daemon(plan.argv, log=log)
                self._servers.append(process)
                started.append((pod, plan, process))
        deadline = time.monotonic() + SERVER_TIMEOUT_S
        for pod, plan, process in started:
            pod.wait_listening(
                plan.port,
                addresses=(pod.ipv4, pod.ipv6),
                deadline=deadline,
                alive=lambda process=process: process.poll() is None,  # type: ignore[misc]
            )

    def _place(self, plan: PlacePlan) -> Place:
        return Place(plan, self._mount / plan.cgroup)

    def _place_of_kind(self, name: str, kind: PlaceKind) -> Place:
        place = self.place(name)
        if place.plan.kind is not kind:
            raise UsageError(f"{name} is a {place.plan.kind}, not a {kind}")
        return place

    def _state(self, pod: str) -> EndpointState:
        return self._states.get(pod, READY)


def _programs(topology: Topology) -> set[str]:
    """What this topology needs of the system."""
    kinds = {kind for node in topology.nodes for pod in node.pods for kind, _ in pod.server_ports()}
    return {"ip", "nsenter"} | {
        servers.PROGRAMS[kind] for kind in kinds if kind in servers.PROGRAMS
    }


class _PlainDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Without anchors, which state files may not have."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _dump(state: Manifest) -> str:
    """YAML for people; JSON, written and read 20 times as fast, where nobody edits by hand."""
    if len(state.get("services", ())) > _BY_HAND:
        return msgspec.json.encode(state).decode()
    return str(yaml.dump(state, Dumper=_PlainDumper, sort_keys=False))
