# SPDX-License-Identifier: Apache-2.0
"""The file a lab is built from: nodes, pods with their servers, Services.

Only the shape and its checks; which addresses things get is `blueprint`'s decision.
`services` are plain v1 Service objects with a `selector: {app: …}`: the lab plays the
endpoint controller for them. Pure: no I/O except `load_topology`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import yaml

from vipbee.errors import UsageError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
LAB_NAME = re.compile(r"[a-z0-9]{1,16}")
"""No dash: `vb-<lab>-<place>` must tell lab `a`, place `b-c` from lab `a-b`, place `c`."""

RESERVED = frozenset({"fabric", "client", "agent", "sandboxed"})
MAX_NODES = 99
MAX_PODS_PER_NODE = 200


class Network(StrEnum):
    """How the pods of a node are wired."""

    ROUTED = "routed"  # one veth and one host route a pod, no bridge: like Calico
    BRIDGED = "bridged"  # one bridge a node, cni0: like flannel's host-gw
    VXLAN = "vxlan"  # the same, and an overlay between the nodes: like flannel's vxlan

    @property
    def has_bridge(self) -> bool:
        return self is not Network.ROUTED


class ServerKind(StrEnum):
    NGINX = "nginx"
    DNS = "dns"
    ECHO = "echo"


DEFAULT_PORTS = {ServerKind.NGINX: 8080, ServerKind.DNS: 53, ServerKind.ECHO: 7000}


class Pod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`servers` are `kind` or `kind:port`; `app` is the label that Services select.

    A `sandboxed` pod's sockets are not seen by the node's hooks, as those of a VM, Kata or
    gVisor: its processes live outside the cgroup that the agent serves.
    """

    name: str
    app: str = ""
    servers: list[str] = []
    hostNetwork: bool = False
    sandboxed: bool = False

    def server_ports(self) -> list[tuple[ServerKind, int]]:
        return [parse_server(server) for server in self.servers]


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    pods: list[Pod] = []
    zone: str = ""


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nodes: list[Node]
    name: str = "lab"
    network: Network = Network.ROUTED
    services: list[dict[str, Any]] = []


def load_topology(path: Path) -> Topology:
    """Read and check a topology file; UsageError names the file and what is wrong."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_topology(text, source=str(path))


def parse_topology(text: str, *, source: str = "topology") -> Topology:
    try:
        topology = msgspec.convert(yaml.safe_load(text), Topology)
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not valid YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{source}: {error}") from error
    check_topology(topology, source=source)
    return topology


def parse_server(text: str) -> tuple[ServerKind, int]:
    """`nginx` or `nginx:80` → kind and port; ValueError if it is neither."""
    kind_text, _, port_text = text.partition(":")
    kind = ServerKind(kind_text)
    port = int(port_text) if port_text else DEFAULT_PORTS[kind]
    if not 0 < port < 65536:
        raise ValueError(f"port {port} is not between 1 and 65535")
    return kind, port


def check_lab_name(name: str) -> None:
    if not LAB_NAME.fullmatch(name):
        raise UsageError(
            f"lab name {name!r}: use 1 to 16 lower-case letters and digits, without a dash"
        )


def check_topology(topology: Topology, *, source: str) -> None:
    """Refuse what cannot be built, naming the object."""
    check_lab_name(topology.name)
    if not 1 <= len(topology.nodes) <= MAX_NODES:
        raise UsageError(f"{source}: a lab has 1 to {MAX_NODES} nodes, not {len(topology.nodes)}")
    seen: set[str] = set()
    for node in topology.nodes:
        if len(node.pods) > MAX_PODS_PER_NODE:
            raise UsageError(f"{source}: node {node.name} has more than {MAX_PODS_PER_NODE} pods")
        for name in (node.name, *(pod.name for pod in node.pods)):
            _check_place_name(name, seen, source)
        _check_servers(node, source)
    for service in topology.services:
        _check_service(service, source)


def _check_place_name(name: str, seen: set[str], source: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{source}: name {name!r}: use lower-case letters, digits and dashes, at most 30"
        )
    if name in RESERVED:
        raise UsageError(f"{source}: the name {name} is the lab's own, choose another")
    if name in seen:
        raise UsageError(f"{source}: the name {name} is used twice")
    seen.add(name)


def _check_servers(node: Node, source: str) -> None:
    """Known kinds, and no port twice where it is one namespace's."""
    taken: set[tuple[str, int]] = set()
    for pod in node.pods:
        for server in pod.servers:
            try:
                _, port = parse_server(server)
            except ValueError as error:
                kinds = ", ".join(ServerKind)
                raise UsageError(
                    f"{source}: pod {pod.name}: server {server!r}: {error} (servers: {kinds})"
                ) from error
            namespace = node.name if pod.hostNetwork else pod.name
            if (namespace, port) in taken:
                raise UsageError(f"{source}: pod {pod.name}: port {port} is used twice")
            taken.add((namespace, port))


def _check_service(service: dict[str, Any], source: str) -> None:
    name = (service.get("metadata") or {}).get("name")
    if not isinstance(name, str) or not isinstance(service.get("spec"), dict):
        raise UsageError(
            f"{source}: services are v1 Service objects with metadata.name and spec; got {service}"
        )
