# SPDX-License-Identifier: Apache-2.0
"""A topology with every name and address decided: the plan all other modules build from.

    fabric   172.30.0.0/24        fd00:172:30::/64         nodes .1 …, outside client .200
    pods     10.244.<node>.0/24   fd00:10:244:<node>::/64  pods .2 …, .1 is the node's bridge
    VIPs     172.31.0.0/24        fd00:172:31::/64         routed to a node by the client

A *place* is where programs run: a node, a pod or the outside client. Its network
namespace is `vb-<lab>-<name>`, its cgroup `vipbee-lab/<lab>/<node>/<pod>`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vipbee.errors import UsageError
from vipbee.lab.topology import Network, ServerKind, Topology

FABRIC_IPV4 = IPv4Network("172.30.0.0/24")
FABRIC_IPV6 = IPv6Network("fd00:172:30::/64")
VIP_IPV4 = IPv4Network("172.31.0.0/24")
VIP_IPV6 = IPv6Network("fd00:172:31::/64")
"""For load balancer IPs and externalIPs: what a router would send to the nodes."""
CLIENT_NUMBER = 200
FIRST_POD_NUMBER = 2
CGROUP_ROOT = "vipbee-lab"


class PlaceKind(StrEnum):
    NODE = "node"
    POD = "pod"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class PlacePlan:
    """Where programs run. `number` is the last part of its addresses."""

    kind: PlaceKind
    name: str
    node: str  # its own name for a node, "" for the client
    namespace: str
    cgroup: str  # relative to the cgroup2 mount
    number: int
    ipv4: IPv4Address
    ipv6: IPv6Address
    app: str = ""
    servers: tuple[tuple[ServerKind, int], ...] = ()
    host_network: bool = False


@dataclass(frozen=True, slots=True)
class NodePlan:
    place: PlacePlan
    pod_ipv4: IPv4Network
    pod_ipv6: IPv6Network
    pods: tuple[PlacePlan, ...]
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Blueprint:
    lab: str
    network: Network
    nodes: tuple[NodePlan, ...]
    client: PlacePlan
    fabric_namespace: str
    cgroup: str

    @property
    def pods(self) -> tuple[PlacePlan, ...]:
        return tuple(pod for node in self.nodes for pod in node.pods)

    @property
    def places(self) -> tuple[PlacePlan, ...]:
        """Nodes, pods, then the client."""
        return (*(node.place for node in self.nodes), *self.pods, self.client)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace once, the fabric first (host-network pods have none of their own)."""
        return tuple(
            dict.fromkeys((self.fabric_namespace, *(place.namespace for place in self.places)))
        )

    def place(self, name: str) -> PlacePlan:
        for place in self.places:
            if place.name == name:
                return place
        names = ", ".join(place.name for place in self.places)
        raise UsageError(f"lab {self.lab} has no node or pod {name}; it has {names}")


def namespace_prefix(lab: str) -> str:
    return f"vb-{lab}-"


def lab_cgroup(lab: str) -> str:
    return f"{CGROUP_ROOT}/{lab}"


def draw_blueprint(topology: Topology) -> Blueprint:
    """Number nodes and pods in the order of the file. Same topology, same blueprint."""
    lab = topology.name
    nodes = tuple(_draw_node(topology, index) for index in range(len(topology.nodes)))
    client = PlacePlan(
        kind=PlaceKind.CLIENT,
        name="client",
        node="",
        namespace=f"{namespace_prefix(lab)}client",
        cgroup=f"{lab_cgroup(lab)}/client",
        number=CLIENT_NUMBER,
        ipv4=FABRIC_IPV4[CLIENT_NUMBER],
        ipv6=FABRIC_IPV6[CLIENT_NUMBER],
    )
    return Blueprint(
        lab=lab,
        network=topology.network,
        nodes=nodes,
        client=client,
        fabric_namespace=f"{namespace_prefix(lab)}fabric",
        cgroup=lab_cgroup(lab),
    )


def _draw_node(topology: Topology, index: int) -> NodePlan:
    node, number, lab = topology.nodes[index], index + 1, topology.name
    place = PlacePlan(
        kind=PlaceKind.NODE,
        name=node.name,
        node=node.name,
        namespace=f"{namespace_prefix(lab)}{node.name}",
        cgroup=f"{lab_cgroup(lab)}/{node.name}",
        number=number,
        ipv4=FABRIC_IPV4[number],
        ipv6=FABRIC_IPV6[number],
    )
    sandbox = f"{lab_cgroup(lab)}/sandboxed"
    pod_ipv4 = IPv4Network(f"10.244.{number}.0/24")
    pod_ipv6 = IPv6Network(f"fd00:10:244:{number:x}::/64")
    pods = tuple(
        PlacePlan(
            kind=PlaceKind.POD,
            name=pod.name,
            node=node.name,
            namespace=place.namespace if pod.hostNetwork else f"{namespace_prefix(lab)}{pod.name}",
            cgroup=f"{sandbox if pod.sandboxed else place.cgroup}/{pod.name}",
            number=pod_number,
            ipv4=place.ipv4 if pod.hostNetwork else pod_ipv4[pod_number],
            ipv6=place.ipv6 if pod.hostNetwork else pod_ipv6[pod_number],
            app=pod.app,
            servers=tuple(pod.server_ports()),
            host_network=pod.hostNetwork,
        )
        for pod_number, pod in enumerate(node.pods, start=FIRST_POD_NUMBER)
    )
    return NodePlan(place=place, pod_ipv4=pod_ipv4, pod_ipv6=pod_ipv6, pods=pods, zone=node.zone)
