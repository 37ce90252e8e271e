# SPDX-License-Identifier: Apache-2.0
"""What `service list` and `backend list` show: the stable schema of their JSON and YAML.

`-o json` and `-o yaml` print exactly these Structs; members are only ever
added. Lists are sorted, times are seconds.

`vipbee service list -o json`: a list of Service ports, one per family

    namespace, name, portName, port, protocol ("TCP" | "UDP"), family ("IPv4" | "IPv6")
    type                     "ClusterIP" | "NodePort" | "LoadBalancer"
    affinityTimeoutSeconds   0: no session affinity
    endpoints                in the EndpointSlices, usable or not
    connections              opened, active, refused (no endpoint), unreachable (policy Local,
                             endpoints elsewhere only), affinityHits
    frontends                list of: address ("*": every address in nodeAddresses), port,
                             protocol, type ("ClusterIP" | "NodePort" | "ExternalIP" |
                             "LoadBalancer"), policy ("Cluster" | "Local"), nodeAddresses,
                             backends (how many a new connection from this node may get)
    backends                 list of: address, port, protocol, nodeLocal, opened, active,
                             selected (a new connection may get it), state:
                             "active", "terminating" (keeps what it has; selected as well if
                             nobody else is left), "not selected" (serves, but readiness,
                             topology or traffic policy say no)

`vipbee backend list -o json`: a list of the same backends, each with namespace, name and
portName of its Service; a backend of several Services appears once for each.
"""

from __future__ import annotations

from msgspec import Struct


class Connections(Struct, gc=False, rename="camel", kw_only=True):
    opened: int
    active: int
    refused: int
    unreachable: int
    affinity_hits: int


class FrontendView(Struct, rename="camel", kw_only=True):
    address: str
    port: int
    protocol: str
    type: str
    policy: str
    node_addresses: list[str]
    backends: int

    def __str__(self) -> str:
        return _endpoint(self.address, self.port, self.protocol)


class BackendView(Struct, gc=False, rename="camel", kw_only=True):
    address: str
    port: int
    protocol: str
    state: str
    selected: bool
    node_local: bool
    opened: int
    active: int

    def __str__(self) -> str:
        return _endpoint(self.address, self.port, self.protocol)


class ServiceView(Struct, rename="camel", kw_only=True):
    namespace: str
    name: str
    port_name: str
    port: int
    protocol: str
    family: str
    type: str
    affinity_timeout_seconds: int
    endpoints: int
    connections: Connections
    frontends: list[FrontendView]
    backends: list[BackendView]

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ServiceBackendView(BackendView, gc=False, rename="camel", kw_only=True):
    namespace: str
    name: str
    port_name: str


def _endpoint(address: str, port: int, protocol: str) -> str:
    """The field's notation: `IP:port/PROTO`."""
    return f"[{address}]:{port}/{protocol}" if ":" in address else f"{address}:{port}/{protocol}"
