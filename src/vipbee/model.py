# SPDX-License-Identifier: Apache-2.0
"""The objects vipbee reads and the value it computes from them.

First the Kubernetes objects, reduced to the fields that are used, as msgspec
Structs that decode straight from bytes (unknown fields are skipped). Then the
desired state: a `ServicePort` is all that one (Service port, family) means on this
node. Everything is immutable by convention and compares by value. No logic here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from msgspec import Struct

# ---- Kubernetes objects ------------------------------------------------------


class ObjectMeta(Struct, gc=False, kw_only=True):
    name: str
    namespace: str = "default"
    uid: str = ""
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class PortSpec(Struct, gc=False, kw_only=True):
    """spec.ports[] of a Service; targetPort is never read (R11)."""

    port: int
    name: str | None = None
    protocol: str = "TCP"
    nodePort: int = 0


class ClientIPConfig(Struct, gc=False, kw_only=True):
    timeoutSeconds: int | None = None


class SessionAffinityConfig(Struct, gc=False, kw_only=True):
    clientIP: ClientIPConfig | None = None


class ServiceSpec(Struct, gc=False, kw_only=True):
    type: str = "ClusterIP"
    clusterIP: str = ""
    clusterIPs: list[str] | None = None
    ipFamilies: list[str] | None = None
    ports: list[PortSpec] | None = None
    externalIPs: list[str] | None = None
    sessionAffinity: str = "None"
    sessionAffinityConfig: SessionAffinityConfig | None = None
    internalTrafficPolicy: str | None = None
    externalTrafficPolicy: str | None = None
    healthCheckNodePort: int = 0
    loadBalancerSourceRanges: list[str] | None = None


class Ingress(Struct, gc=False, kw_only=True):
    ip: str = ""
    hostname: str = ""
    ipMode: str | None = None


class LoadBalancerStatus(Struct, gc=False, kw_only=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(Struct, gc=False, kw_only=True):
    loadBalancer: LoadBalancerStatus | None = None


class Service(Struct, gc=False, kw_only=True):
    """v1 Service."""

    metadata: ObjectMeta
    spec: ServiceSpec
    status: ServiceStatus | None = None


class Conditions(Struct, gc=False, kw_only=True):
    """nil ready and serving mean true, nil terminating false (R26)."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Struct, gc=False, kw_only=True):
    name: str


class EndpointHints(Struct, gc=False, kw_only=True):
    forZones: list[Hint] | None = None
    forNodes: list[Hint] | None = None


class Endpoint(Struct, gc=False, kw_only=True):
    addresses: list[str]
    conditions: Conditions | None = None
    nodeName: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class EndpointPort(Struct, gc=False, kw_only=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Struct, gc=False, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: ObjectMeta
    addressType: str
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class NodeAddress(Struct, gc=False, kw_only=True):
    type: str
    address: str


class Taint(Struct, gc=False, kw_only=True):
    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(Struct, gc=False, kw_only=True):
    taints: list[Taint] | None = None
    unschedulable: bool = False


class NodeStatus(Struct, gc=False, kw_only=True):
    addresses: list[NodeAddress] | None = None


class Node(Struct, gc=False, kw_only=True):
    """v1 Node; `namespace` of its metadata means nothing."""

    metadata: ObjectMeta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDRSpec(Struct, gc=False, kw_only=True):
    cidrs: list[str] | None = None


class ServiceCIDR(Struct, gc=False, kw_only=True):
    """networking.k8s.io/v1 ServiceCIDR; `namespace` of its metadata means nothing."""

    metadata: ObjectMeta
    spec: ServiceCIDRSpec | None = None


ApiObject = Service | EndpointSlice | Node | ServiceCIDR

# ---- desired state -------------------------------------------------------------


class ServiceName(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortKey(NamedTuple):
    """Identity of a Service port (R10) within one family (R117)."""

    namespace: str
    name: str
    port_name: str
    protocol: int  # IPPROTO_TCP or IPPROTO_UDP
    family: int  # 4 or 6

    @property
    def service(self) -> ServiceName:
        return ServiceName(self.namespace, self.name)


class FrontendKey(NamedTuple):
    """What a client dials; the unspecified address for a NodePort."""

    address: bytes  # 16 bytes
    port: int
    protocol: int


class Frontend(NamedTuple):
    key: FrontendKey
    kind: int  # abi.FrontendKind
    policy_local: bool  # iTP or eTP, whichever governs this frontend


class Backend(NamedTuple):
    address: bytes  # 16 bytes
    port: int
    flags: int  # abi.BackendFlag


class SourceRange(NamedTuple):
    address: bytes  # 16 bytes, host bits zero
    prefix_length: int  # of the family: at most 32 or 128


@dataclass(frozen=True, slots=True)
class ServicePort:
    """What one Service port means on this node, for one family.

    `backends` holds every *serving* endpoint once per address and port, sorted by
    (address, port); which of them new connections may get is in their flags
    (IN_CLUSTER: R28, IN_LOCAL: R29). No IN_CLUSTER backend means refuse (R35).
    """

    key: ServicePortKey
    service_type: str
    port: int
    created: str  # creationTimestamp, "" if unknown: conflicts are decided by it (R88)
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...]
    affinity_timeout_s: int  # 0: no affinity
    endpoints: int  # endpoints in the slices, usable or not
    source_ranges: tuple[SourceRange, ...] = ()
    """Clients its load balancer IPs serve; empty: all (R80-R85). Packet layer only."""


class ProblemReason(StrEnum):
    """Reasons of Kubernetes Events, for problems that are worth one."""

    HEALTH_CHECK_FAILED = "FailedToStartServiceHealthcheck"  # kube-proxy's
    FRONTEND_CONFLICT = "FrontendConflict"
    ADDRESS_REFUSED = "AddressRefused"
    SERVICE_REFUSED = "ServiceRefused"
    MAP_FULL = "MapFull"


class Problem(NamedTuple):
    """Something an operator must know about one object."""

    object: str  # "Service default/web", a file name, …
    message: str
    is_error: bool  # True: not served; False: served, but not entirely as written
    reason: ProblemReason | Literal[""] = ""  # "": no Kubernetes Event
