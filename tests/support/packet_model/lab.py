# SPDX-License-Identifier: Apache-2.0
"""The node all packet tests run on: its devices, routes, pods, and a Service per situation.

outside ── up0 (default) ──┐        ┌── pod0: .1.2, itself a backend
           remote .2.0/24  ├─ node ─┤
second ─── up1 ────────────┘        └── pod1: .1.3, a backend
           remote .3.0/24
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import (
    LOCAL,
    UNSPECIFIED,
    Backend,
    Device,
    Frontend,
    World,
    packed,
)
from vipbee.abi import AddressFlag, BackendFlag, FrontendKind

CLUSTER = BackendFlag.SERVING | BackendFlag.READY | BackendFlag.IN_CLUSTER
ON_NODE = CLUSTER | BackendFlag.IN_LOCAL | BackendFlag.ON_NODE

IFINDEXES: Mapping[str, int] = {"lo": 1, "up0": 101, "up1": 102, "pod0": 103, "pod1": 104}
"""For runs of the model alone."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Everything with an address, of one family; text."""

    family: int
    client: str
    other_client: str
    node: str
    second_node: str  # its address on up1
    router: str
    elsewhere: str  # routed by default, nobody's frontend
    pods: tuple[str, str]  # behind pod0 and pod1
    remotes: tuple[str, str]  # behind up0 and up1
    vip: str  # with room for a number
    external: str
    cluster_ip: str
    ranges: tuple[str, int]

    def lb(self, number: int) -> str:
        return self.vip.format(number)


V4 = Addresses(
    family=4,
    client="192.0.2.7",
    other_client="192.0.2.200",
    node="172.30.0.1",
    second_node="172.31.0.1",
    router="172.30.0.254",
    elsewhere="192.0.2.99",
    pods=("10.244.1.2", "10.244.1.3"),
    remotes=("10.244.2.2", "10.244.3.2"),
    vip="203.0.113.{}",
    external="198.51.100.{}",
    cluster_ip="10.96.0.{}",
    ranges=("192.0.2.0", 25),
)
V6 = Addresses(
    family=6,
    client="2001:db8:2::7",
    other_client="2001:db8:2::8007",
    node="fd00:172:30::1",
    second_node="fd00:172:31::1",
    router="fd00:172:30::fe",
    elsewhere="2001:db8:2::99",
    pods=("fd00:10:244:1::2", "fd00:10:244:1::3"),
    remotes=("fd00:10:244:2::2", "fd00:10:244:3::2"),
    vip="2001:db8:113::{}",
    external="2001:db8:100::{}",
    cluster_ip="fd00:10:96::{}",
    ranges=("2001:db8:2::", 113),
)
BY_FAMILY = {4: V4, 6: V6}


@dataclass(frozen=True, slots=True)
class Case:
    """A Service of the lab: last number of its VIPs, its NodePort, where it leads."""

    number: int
    node_port: int
    backends: tuple[str, ...]  # pod0, pod1, remote0, remote1
    policy_local: bool = False
    affinity_timeout_s: int = 0
    has_ranges: bool = False


ANY = Case(10, 30080, ("pod0", "pod1", "remote0", "remote1"))
REMOTE = Case(11, 30081, ("remote0",))
HERE = Case(12, 30082, ("pod1",))
NOBODY = Case(13, 30083, ())
NOT_HERE = Case(14, 30084, ("remote0",), policy_local=True)
RANGED = Case(15, 30085, ("remote0",), has_ranges=True)
STICKY = Case(16, 30086, ("pod0", "pod1", "remote0", "remote1"), affinity_timeout_s=100)
SELF = Case(17, 30087, ("pod0",))
TWIN = Case(18, 30088, ("remote0",))  # the same backend as REMOTE by another VIP (R124)
HERE_TWIN = Case(19, 30089, ("pod1",))
LOCALLY = Case(20, 30090, ("pod1", "remote0"), policy_local=True)
SECOND = Case(21, 30091, ("remote1",))  # leaves by the other uplink (D114)
HOST = Case(22, 30092, ("host",))  # its backend is a program of the node
CASES = (
    ANY,
    REMOTE,
    HERE,
    NOBODY,
    NOT_HERE,
    RANGED,
    STICKY,
    SELF,
    TWIN,
    HERE_TWIN,
    LOCALLY,
    SECOND,
    HOST,
)

PORTS = {TCP: (80, 8080), UDP: (53, 5353)}
"""Protocol: (Service port, backend port)."""


def lab_world(ifindexes: Mapping[str, int] = IFINDEXES) -> World:
    world = World()
    for name, addresses in (("lo", 0), ("up0", 0), ("up1", 1), ("pod0", 0), ("pod1", 0)):
        node = [(a.node, a.second_node)[addresses] for a in (V4, V6)]
        world.devices[ifindexes[name]] = Device(
            ifindex=ifindexes[name],
            name=name,
            is_pod=name.startswith("pod"),
            v4=packed(node[0]),
            v6=packed(node[1]),
            mtu=65536 if name == "lo" else 1500,
        )
    for family in (V4, V6):
        _add_network(world, family, ifindexes)
        for position, case in enumerate(CASES):
            for protocol in (TCP, UDP):
                service_id = 1 + position * 4 + (protocol == UDP) + 2 * (family.family == 6)
                _add_service(world, family, case, protocol, service_id)
    return world


def _add_network(world: World, family: Addresses, ifindexes: Mapping[str, int]) -> None:
    bits = 32 if family.family == 4 else 128
    own = AddressFlag.NODE | AddressFlag.OWN | AddressFlag.SNAT
    world.addresses[packed(family.node)] = own
    world.addresses[packed(family.second_node)] = own & ~AddressFlag.NODE
    net = 24 if family.family == 4 else 64
    for address in (family.node, family.second_node):
        world.routes.append((packed(address), bits, LOCAL))
    for address, name in (
        (family.node, "up0"),
        (family.second_node, "up1"),
        (family.remotes[0], "up0"),
        (family.remotes[1], "up1"),
    ):
        world.routes.append((packed(address), net, ifindexes[name]))
    for address, name in zip(family.pods, ("pod0", "pod1"), strict=True):
        world.routes.append((packed(address), bits, ifindexes[name]))
    world.routes.append((UNSPECIFIED[family.family], 0, ifindexes["up0"]))


def _add_service(
    world: World, family: Addresses, case: Case, protocol: int, service_id: int
) -> None:
    port, target = PORTS[protocol]
    where = {
        "pod0": family.pods[0],
        "pod1": family.pods[1],
        "remote0": family.remotes[0],
        "remote1": family.remotes[1],
        "host": family.node,
    }
    ids, local = [], []
    for name in case.backends:
        backend_id = len(world.backends) + 1
        is_here = not name.startswith("remote")
        flags = ON_NODE if is_here else CLUSTER
        world.add_backend(
            Backend(backend_id, packed(where[name]), target, protocol, service_id, flags)
        )
        ids.append(backend_id)
        if is_here:
            local.append(backend_id)
    ranges = (packed(family.ranges[0]), family.ranges[1])
    for kind, address, number in _frontends(family, case, port):
        world.add_frontend(
            Frontend(
                address=address,
                port=number,
                protocol=protocol,
                kind=kind,
                service_id=service_id,
                cluster=tuple(ids),
                local=tuple(local),
                policy_local=case.policy_local,
                affinity_timeout_s=case.affinity_timeout_s,
                ranges=(ranges,)
                if case.has_ranges and kind == FrontendKind.LOAD_BALANCER
                else None,
            )
        )


def _frontends(
    family: Addresses, case: Case, port: int
) -> Iterable[tuple[FrontendKind, bytes, int]]:
    yield FrontendKind.CLUSTER_IP, packed(family.cluster_ip.format(case.number)), port
    yield FrontendKind.NODE_PORT, UNSPECIFIED[family.family], case.node_port
    yield FrontendKind.LOAD_BALANCER, packed(family.vip.format(case.number)), port
    yield FrontendKind.EXTERNAL_IP, packed(family.external.format(case.number)), port


def dialled(family: Addresses, case: Case, kind: FrontendKind, protocol: int) -> Endpoint:
    """Where a client dials this Service."""
    port = PORTS[protocol][0]
    match kind:
        case FrontendKind.NODE_PORT:
            return Endpoint(packed(family.node), case.node_port)
        case FrontendKind.CLUSTER_IP:
            return Endpoint(packed(family.cluster_ip.format(case.number)), port)
        case FrontendKind.LOAD_BALANCER:
            return Endpoint(packed(family.vip.format(case.number)), port)
        case FrontendKind.EXTERNAL_IP:
            return Endpoint(packed(family.external.format(case.number)), port)


def without_backend(world: World, backend: Endpoint, *, gone: bool = True) -> World:
    """The endpoint is deleted (`gone`) or terminating; its frontends lose it from the set."""
    victims = [b for b in world.backends.values() if b.endpoint == backend and b.flags]
    for victim in victims:
        flags = BackendFlag(0) if gone else BackendFlag.SERVING | BackendFlag.TERMINATING
        world.backends[victim.id] = replace(
            victim, flags=flags, generation=victim.generation + gone
        )
    ids = {victim.id for victim in victims}
    for key, frontend in world.frontends.items():
        world.frontends[key] = replace(
            frontend,
            cluster=tuple(i for i in frontend.cluster if i not in ids),
            local=tuple(i for i in frontend.local if i not in ids),
        )
    return world
