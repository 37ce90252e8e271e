# SPDX-License-Identifier: Apache-2.0
"""What the agent programs and what the kernel knows: everything a decision reads.

A value: tests copy and change it. Addresses are 4 or 16 bytes. Names and flags are the
contract's (vipbee.abi); nothing else of the product is used here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from tests.support.packet_model.wire import Endpoint
from vipbee.abi import AddressFlag, BackendFlag, FrontendKind

LOCAL = 0
"""The `ifindex` of a route to an address of the node itself."""

V4_MAPPED = bytes(10) + b"\xff\xff"
"""Of IPv4 on IPv6 sockets; never on a wire."""

UNSPECIFIED = {4: bytes(4), 6: bytes(16)}


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@dataclass(frozen=True, slots=True)
class Backend:
    id: int
    address: bytes
    port: int
    protocol: int
    service_id: int
    flags: BackendFlag
    generation: int = 1

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.port)

    @property
    def is_on_node(self) -> bool:
        return bool(self.flags & BackendFlag.ON_NODE)


@dataclass(frozen=True, slots=True)
class Frontend:
    address: bytes  # unspecified for a NodePort
    port: int
    protocol: int
    kind: FrontendKind
    service_id: int
    cluster: tuple[int, ...]  # backend ids
    local: tuple[int, ...] = ()
    policy_local: bool = False
    affinity_timeout_s: int = 0
    ranges: tuple[tuple[bytes, int], ...] | None = None  # None: every source may (R82, R83)


@dataclass(frozen=True, slots=True)
class Device:
    ifindex: int
    name: str
    is_pod: bool
    v4: bytes
    v6: bytes
    mtu: int = 1500
    has_ethernet: bool = True

    def source(self, family: int) -> bytes:
        """The node's address for what leaves here (R60, D114)."""
        return self.v4 if family == 4 else self.v6


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds: RFC 5382 (TCP), RFC 4787 (UDP)."""

    established: int = 7440
    transitory: int = 240
    reset: int = 10
    udp: int = 120
    fragment: int = 30


@dataclass(slots=True)
class World:
    frontends: dict[tuple[bytes, int, int], Frontend] = field(default_factory=dict)
    addresses: dict[bytes, AddressFlag] = field(default_factory=dict)
    backends: dict[int, Backend] = field(default_factory=dict)
    devices: dict[int, Device] = field(default_factory=dict)
    routes: list[tuple[bytes, int, int]] = field(default_factory=list)  # network, length, ifindex
    node_ports: range = range(30000, 32768)
    snat_ports: range = range(32768, 65536)
    lifetimes: Lifetimes = Lifetimes()
    node_sockets: set[tuple[int, Endpoint, Endpoint]] = field(default_factory=set)
    cluster_ip_from_outside: bool = False  # R42
    masquerade_all: bool = False  # R56

    def route(self, address: bytes) -> int | None:
        """ifindex by longest prefix; LOCAL for the node's own; None: no route."""
        best: tuple[int, int] | None = None
        for network, length, ifindex in self.routes:
            if contains(network, length, address) and (best is None or length > best[0]):
                best = (length, ifindex)
        return best[1] if best else None

    def add_backend(self, backend: Backend) -> None:
        self.backends[backend.id] = backend

    def add_frontend(self, frontend: Frontend) -> None:
        self.frontends[frontend.address, frontend.port, frontend.protocol] = frontend
        role = {
            FrontendKind.CLUSTER_IP: AddressFlag.CLUSTER_IP,
            FrontendKind.EXTERNAL_IP: AddressFlag.EXTERNAL,
            FrontendKind.LOAD_BALANCER: AddressFlag.EXTERNAL,
        }.get(frontend.kind)
        if role is not None:
            known = self.addresses.get(frontend.address, AddressFlag(0))
            self.addresses[frontend.address] = known | role

    def lookup(self, dialled: Endpoint, protocol: int) -> Frontend | None:
        """Exact frontends before NodePorts (R92); NodePorts only on node addresses (R90)."""
        exact = self.frontends.get((dialled.address, dialled.port, protocol))
        if exact is not None:
            return exact
        flags = self.flags(dialled.address)
        if not flags & AddressFlag.NODE or flags & AddressFlag.HOST_ONLY:
            return None
        anywhere = UNSPECIFIED[4 if len(dialled.address) == 4 else 6]
        return self.frontends.get((anywhere, dialled.port, protocol))

    def flags(self, address: bytes) -> AddressFlag:
        return self.addresses.get(address, AddressFlag(0))

    def is_ours(self, address: bytes) -> bool:
        """May a packet to this address concern us at all?"""
        return address in self.addresses

    def source_allowed(self, frontend: Frontend, source: bytes) -> bool:
        """R80-R83"""
        if frontend.kind != FrontendKind.LOAD_BALANCER or frontend.ranges is None:
            return True
        return any(contains(network, length, source) for network, length in frontend.ranges)

    def same_instance(self, backend_id: int, service_id: int, generation: int) -> Backend | None:
        """The backend a connection was given, unless its id means another one by now."""
        backend = self.backends.get(backend_id)
        if backend is None or (backend.service_id, backend.generation) != (service_id, generation):
            return None
        return backend if backend.flags else None


def contains(network: bytes, length: int, address: bytes) -> bool:
    if len(network) != len(address):
        return False
    shift = len(address) * 8 - length
    return int.from_bytes(network) >> shift == int.from_bytes(address) >> shift


def is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"


def is_impossible_source(address: bytes) -> bool:
    """Nobody may answer to it (D146): loopback, unspecified, multicast, broadcast, class E."""
    if is_loopback(address) or not any(address):
        return True
    if len(address) == 4:
        return address[0] >= 224 or address[0] == 0
    return address[0] == 0xFF or address.startswith(V4_MAPPED)
