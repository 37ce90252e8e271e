# SPDX-License-Identifier: Apache-2.0
"""IPv4, IPv6 and v4-mapped twins of one test, and Service ports in one line.

A `Stack` says which addresses a test uses and how its sockets spell them: MAPPED dials
IPv4 Services from AF_INET6 sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.support.hooked import ELSEWHERE_V4, ELSEWHERE_V6, NODE_V4, NODE_V6, V4, V6
from tests.support.servers import port_of
from vipbee.abi import AddressFlag, BackendFlag, FrontendKind
from vipbee.address import (
    LOOPBACK_V4,
    LOOPBACK_V6,
    UNSPECIFIED_V4,
    UNSPECIFIED_V6,
    parse_address,
)
from vipbee.model import Backend, Frontend, FrontendKey, ServicePort, ServicePortKey

CLUSTER = int(BackendFlag.SERVING | BackendFlag.READY | BackendFlag.IN_CLUSTER)
BOTH = int(CLUSTER | BackendFlag.IN_LOCAL | BackendFlag.ON_NODE)
DRAINING = int(BackendFlag.SERVING | BackendFlag.TERMINATING)


@dataclass(frozen=True)
class Stack:
    name: str
    family: int  # 4 or 6: of the Service
    socket_family: socket.AddressFamily
    backends: tuple[str, ...]
    node: str
    loopback: str
    other: str  # an address of the namespace that is not selected for NodePorts
    elsewhere: str  # no backend either: for a server outside the cluster

    def vip(self, number: int) -> str:
        """A ClusterIP."""
        return f"10.96.0.{number}" if self.family == 4 else f"fd00:96::{number}"

    def external(self, number: int) -> str:
        return f"198.51.100.{number}" if self.family == 4 else f"2001:db8::{number}"

    def spelled(self, address: str) -> str:
        """`address` as sockets of this stack write and report it."""
        return f"::ffff:{address}" if self is MAPPED else address

    def at(self, address: str, port: int) -> tuple[str, int]:
        """What connect() and sendto() take; compare with `peer` of what they return."""
        return self.spelled(address), port

    def open(self, kind: int, *, timeout_s: float | None = 3.0) -> socket.socket:
        made = socket.socket(self.socket_family, kind)
        made.settimeout(timeout_s)
        if kind == socket.SOCK_STREAM:  # connections of an earlier test may linger
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made

    def tcp(self, *, timeout_s: float | None = 3.0) -> socket.socket:
        return self.open(socket.SOCK_STREAM, timeout_s=timeout_s)

    def udp(self, *, timeout_s: float | None = 3.0) -> socket.socket:
        return self.open(socket.SOCK_DGRAM, timeout_s=timeout_s)


IPV4 = Stack("IPv4", 4, socket.AF_INET, V4, NODE_V4, "127.0.0.1", V4[8], ELSEWHERE_V4)
IPV6 = Stack("IPv6", 6, socket.AF_INET6, V6, NODE_V6, "::1", V6[8], ELSEWHERE_V6)
MAPPED = Stack("mapped", 4, socket.AF_INET6, V4, NODE_V4, "127.0.0.1", V4[8], ELSEWHERE_V4)

NODE_ADDRESSES: dict[bytes, int] = {
    **{parse_address(a): int(AddressFlag.NODE | AddressFlag.OWN) for a in (NODE_V4, NODE_V6)},
    **dict.fromkeys(
        (LOOPBACK_V4, LOOPBACK_V6),
        int(AddressFlag.NODE | AddressFlag.OWN | AddressFlag.HOST_ONLY),
    ),
}


def peer(address: tuple[object, ...]) -> tuple[object, ...]:
    """Address and port of what getpeername() or recvfrom() reports, of either family."""
    return address[:2]


def cluster_ip(vip: str, port: int, protocol: int, *, local: bool = False) -> Frontend:
    key = FrontendKey(parse_address(vip), port, protocol)
    return Frontend(key, int(FrontendKind.CLUSTER_IP), local)


def external_ip(vip: str, port: int, protocol: int, *, local: bool = False) -> Frontend:
    key = FrontendKey(parse_address(vip), port, protocol)
    return Frontend(key, int(FrontendKind.EXTERNAL_IP), local)


def node_port(family: int, port: int, protocol: int, *, local: bool = False) -> Frontend:
    unspecified = UNSPECIFIED_V4 if family == 4 else UNSPECIFIED_V6
    return Frontend(FrontendKey(unspecified, port, protocol), int(FrontendKind.NODE_PORT), local)


def service_port(
    name: str,
    frontends: Frontend | Sequence[Frontend],
    backends: Iterable[str | Backend],
    *,
    family: int = 4,
    affinity_timeout_s: int = 0,
) -> ServicePort:
    """A port of Service default/name. A plain address is a ready backend of the servers."""
    several = (frontends,) if isinstance(frontends, Frontend) else tuple(frontends)
    protocol = several[0].key.protocol
    rows = sorted(b if isinstance(b, Backend) else backend(b, protocol) for b in backends)
    return ServicePort(
        key=ServicePortKey("default", name, "", protocol, family),
        service_type="ClusterIP",
        port=several[0].key.port,
        created="",
        frontends=several,
        backends=tuple(rows),
        affinity_timeout_s=affinity_timeout_s,
        endpoints=len(rows),
    )


def backend(address: str, protocol: int, flags: int = CLUSTER) -> Backend:
    return Backend(parse_address(address), port_of(protocol), flags)
