# SPDX-License-Identifier: Apache-2.0
"""The cluster that every proxy gets: so many Services, three of which are dialled.

Service i has the ClusterIP 10.96.0.0 + i (fd00:10:96:: + i) and `ENDPOINTS` endpoints that
nobody dials. The first, the middle and the last have one instead, the server beside the
client, so that a VIP is never compared with another number of servers than a direct
connection. Two more are NodePorts, with one endpoint on this node and on another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

ENDPOINTS = 5
PORT, DNS_PORT, TARGET_PORT = 80, 53, 8080
NAMESPACE = "bench"
NODE_PORTS = {"local": 30080, "remote": 30081}
POD_CIDR = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
_VIPS = {4: IPv4Address("10.96.0.0"), 6: IPv6Address("fd00:10:96::")}
_IDLE = {4: IPv4Address("10.128.0.1"), 6: IPv6Address("fd00:128::1")}


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a Service, as a proxy sees it; `endpoints` on TARGET_PORT."""

    service: str
    name: str
    protocol: str  # "TCP", "UDP"
    vip: str
    port: int
    endpoints: tuple[str, ...]
    node_port: int = 0

    @property
    def key(self) -> str:
        """kube-proxy's ServicePortName."""
        return f"{NAMESPACE}/{self.service}:{self.name}"


@dataclass(frozen=True, slots=True)
class Servers:
    """Where answers come from: pods of this node and another one, and this node's name."""

    local: str
    remote: str
    node: str = "node-1"
    remote_node: str = "node-2"


@dataclass(frozen=True, slots=True)
class Cluster:
    services: int
    family: int  # 4 or 6
    servers: Servers
    endpoints: int = ENDPOINTS  # of each Service that nobody dials

    @property
    def dialled(self) -> dict[str, int]:
        """Which Services are dialled, by name of the place they have in the list."""
        return {"first": 0, "middle": self.services // 2, "last": self.services - 1}

    def vip(self, number: int) -> str:
        return str(_VIPS[self.family] + number + 1)

    def ports(self) -> Iterator[Port]:
        """Every port of every Service, in the order of the Services."""
        for number in range(self.services):
            yield from self._ports_of(number)
        for nth, (place, node_port) in enumerate(NODE_PORTS.items()):
            endpoint = self.servers.local if place == "local" else self.servers.remote
            yield Port(
                f"outside-{place}",
                "http",
                "TCP",
                self.vip(self.services + nth),
                PORT,
                (endpoint,),
                node_port,
            )

    def moving(self, endpoint: str) -> Port:
        """The Service in the middle, after its endpoint became another one."""
        return replace(next(self._ports_of(self.dialled["middle"])), endpoints=(endpoint,))

    def _ports_of(self, number: int) -> Iterator[Port]:
        name, vip = f"service-{number}", self.vip(number)
        if number in self.dialled.values():
            one = (self.servers.local,)
            yield Port(name, "http", "TCP", vip, PORT, one)
            yield Port(name, "dns", "UDP", vip, DNS_PORT, one)
        else:
            first = _IDLE[self.family] + number * self.endpoints
            yield Port(
                name, "http", "TCP", vip, PORT, tuple(str(first + i) for i in range(self.endpoints))
            )

    def objects(self) -> dict[str, list[dict[str, Any]]]:
        """The same as Services and EndpointSlices, as an API server has them."""
        by_service: dict[str, list[Port]] = {}
        for port in self.ports():
            by_service.setdefault(port.service, []).append(port)
        return {
            "services": [service_object(ports, self.family) for ports in by_service.values()],
            "endpoints": [
                slice_object(ports, self.family, self.servers) for ports in by_service.values()
            ],
        }


def service_object(ports: list[Port], family: int) -> dict[str, Any]:
    first = ports[0]
    return {
        "metadata": {"name": first.service, "namespace": NAMESPACE},
        "spec": {
            "type": "NodePort" if first.node_port else "ClusterIP",
            "clusterIP": first.vip,
            "clusterIPs": [first.vip],
            "ipFamilies": [f"IPv{family}"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [
                {
                    "name": port.name,
                    "port": port.port,
                    "targetPort": TARGET_PORT,
                    "protocol": port.protocol,
                    **({"nodePort": port.node_port} if port.node_port else {}),
                }
                for port in ports
            ],
        },
    }


def slice_object(ports: list[Port], family: int, servers: Servers) -> dict[str, Any]:
    first = ports[0]
    return {
        "metadata": {
            "name": f"{first.service}-1",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": first.service},
        },
        "addressType": f"IPv{family}",
        "ports": [
            {"name": port.name, "port": TARGET_PORT, "protocol": port.protocol} for port in ports
        ],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": servers.node if address == servers.local else servers.remote_node,
            }
            for address in first.endpoints
        ],
    }
