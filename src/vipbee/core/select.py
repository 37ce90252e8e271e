# SPDX-License-Identifier: Apache-2.0
"""One Service and its slices → what each of its ports means on this node.

The heart of the semantics: which frontends exist, which policy governs each, which
backends stand behind them. Must not know other Services (that is `claims`), ids or
map layouts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vipbee.abi import FrontendKind
from vipbee.address import UNSPECIFIED_V4, UNSPECIFIED_V6, family_of, parse_address
from vipbee.core.allowed_addresses import Networks
from vipbee.core.annotations import Wishes, read_annotations
from vipbee.core.endpoints import EndpointTable
from vipbee.core.nodes import NodeView
from vipbee.core.policy import refused_on_node, refused_vip
from vipbee.core.service_spec import CheckedPort, CheckedSpec, check_spec, counts
from vipbee.core.source_ranges import complement, contains, host_range, parse_source_ranges
from vipbee.model import (
    EndpointSlice,
    Frontend,
    FrontendKey,
    Problem,
    ProblemReason,
    Service,
    ServicePort,
    ServicePortKey,
    SourceRange,
)

# Plain ints: an enum member costs an attribute look-up per frontend.
_CLUSTER_IP = int(FrontendKind.CLUSTER_IP)
_NODE_PORT = int(FrontendKind.NODE_PORT)
_EXTERNAL_IP = int(FrontendKind.EXTERNAL_IP)
_LOAD_BALANCER = int(FrontendKind.LOAD_BALANCER)
_UNSPECIFIED = {4: UNSPECIFIED_V4, 6: UNSPECIFIED_V6}


class Selection(NamedTuple):
    """The Service ports this node serves, and what an operator must know of them."""

    ports: tuple[ServicePort, ...]
    problems: tuple[Problem, ...]


_NOTHING = Selection((), ())


class _ExternalAddress(NamedTuple):
    kind: int
    address: bytes
    field: str  # where the Service says so, for messages


class _AddressRefused(str):
    """A warning about an address that is asked for and not served."""

    __slots__ = ()


def select(service: Service, slices: Sequence[EndpointSlice], node: NodeView) -> Selection:
    """Compute the Service's ports on this node; never raises for what a Service may contain.

    `slices` are the Service's own, in any order; the result does not depend on it. Ports
    come in the order of the spec, IPv4 before IPv6 if clusterIPs says so.
    """
    if not counts(service):
        return _NOTHING
    spec, wrong = check_spec(service)
    name = f"Service {service.metadata.namespace}/{service.metadata.name}"
    for _, address in spec.cluster_ips:
        if address in node.all_addresses:
            wrong.append("spec.clusterIP is an address of a node: its own ports would be refused")
    if wrong:
        refused = ProblemReason.SERVICE_REFUSED
        return Selection((), tuple(Problem(name, message, True, refused) for message in wrong))

    warnings: list[str] = []
    wishes = read_annotations(service, node, warnings)
    if not wishes.is_here:
        return Selection((), tuple(Problem(name, text, is_error=False) for text in warnings))
    external = _external_addresses(service, node, warnings)
    served = _served_ports(service, spec, node, warnings)
    ranges = _source_ranges(service, external, node, wishes, warnings)
    problems: list[Problem] = []
    ports: list[ServicePort] = []
    for family, cluster_ip in spec.cluster_ips:
        table = EndpointTable(slices, family=family, node=node)
        mine = [item for item in external if family_of(item.address) == family]  # R118
        for port in served:
            frontends = _frontends(service, port, cluster_ip, mine, node, warnings)
            if wishes.only_kind is not None:
                frontends = tuple(f for f in frontends if f.kind == wishes.only_kind)
                if not frontends:
                    continue
            ports.append(
                _service_port(service, spec, port, family, frontends, table, ranges[family])
            )
        problems += table.problems
    if warnings or problems:
        told = [_warning(name, message) for message in dict.fromkeys(warnings)]
        return Selection(tuple(ports), (*told, *sorted(set(problems))))
    return Selection(tuple(ports), ())


def _warning(name: str, message: str) -> Problem:
    if isinstance(message, _AddressRefused):
        return Problem(name, message, False, ProblemReason.ADDRESS_REFUSED)
    return Problem(name, message, is_error=False)


def _served_ports(
    service: Service, spec: CheckedSpec, node: NodeView, warnings: list[str]
) -> list[CheckedPort]:
    served = []
    for port in spec.ports:
        if port.protocol == "SCTP":
            warnings.append(
                f"spec.ports[{port.position}].protocol SCTP is not supported:"
                " the port is skipped, TCP and UDP ports are served"
            )
            continue
        if port.node_port and service.spec.type == "ClusterIP":
            warnings.append(
                f"spec.ports[{port.position}].nodePort {port.node_port} is ignored:"
                " spec.type is ClusterIP"
            )
        elif port.node_port and node.packet_lb and not node.node_port_range.has(port.node_port):
            warnings.append(
                f"spec.ports[{port.position}].nodePort {port.node_port} is outside"
                f" nodeport-range {node.node_port_range}: programs of this node reach it,"
                " clients outside do not"
            )
        served.append(port)
    return served


def _external_addresses(
    service: Service, node: NodeView, warnings: list[str]
) -> Sequence[_ExternalAddress]:
    """LB VIPs (R76, R77), then externalIPs (R86); unusable ones are named and left out."""
    spec, status = service.spec, service.status
    found: list[_ExternalAddress] = []
    if spec.type == "LoadBalancer" and status and status.loadBalancer:
        for index, ingress in enumerate(status.loadBalancer.ingress or ()):
            # R76: an entry may have a hostname only. R77: not ours unless ipMode is VIP.
            if ingress.ip and ingress.ipMode in (None, "", "VIP"):
                field = f"status.loadBalancer.ingress[{index}].ip"
                _take_address(found, _LOAD_BALANCER, ingress.ip, field, node, warnings)
        if found and spec.loadBalancerSourceRanges and not node.packet_lb:
            warnings.append(
                "spec.loadBalancerSourceRanges is not enforced while the packet layer is off:"
                " every client on this node reaches the load balancer IPs"
            )
    for index, text in enumerate(spec.externalIPs or ()):
        _take_address(found, _EXTERNAL_IP, text, f"spec.externalIPs[{index}]", node, warnings)
    return found


def _source_ranges(
    service: Service,
    external: Iterable[_ExternalAddress],
    node: NodeView,
    wishes: Wishes,
    warnings: list[str],
) -> dict[int, tuple[SourceRange, ...]]:
    """Who may use the LB VIPs, by family; () is everybody (R80-R84)."""
    found: dict[int, tuple[SourceRange, ...]] = {4: (), 6: ()}
    vips = [item.address for item in external if item.kind == _LOAD_BALANCER]
    texts = service.spec.loadBalancerSourceRanges
    if not vips or not texts or not node.packet_lb:
        return found
    by_family, unreadable = parse_source_ranges(texts)
    if wishes.denies_source_ranges:
        by_family = complement(texts)
    for text in unreadable:
        warnings.append(f"spec.loadBalancerSourceRanges: {text!r} is no CIDR: it is ignored")
    for family, ranges in by_family.items():
        own = [address for address in node.own_addresses if contains(ranges, address)]
        # R84: a node that may use it may also come from the VIP that it owns
        more = {host_range(v) for v in vips if own and family_of(v) == family}
        found[family] = tuple(sorted({*ranges, *more}))
    return found


def _take_address(
    found: list[_ExternalAddress],
    kind: int,
    text: str,
    field: str,
    node: NodeView,
    warnings: list[str],
) -> None:
    try:
        address = parse_address(text)
    except ValueError as error:
        warnings.append(f"{field} {error}: it is ignored")
        return
    reason = refused_vip(address)
    if reason:
        message = f"{field} {text} is {reason} and can never be a VIP: it is ignored"
        warnings.append(_AddressRefused(message))
        return
    option, networks = _allowed(kind, node)
    if not networks.permit(address):
        message = f"{field} {text} is not allowed by the agent's {option}: it is ignored"
        warnings.append(_AddressRefused(message))
        return
    found.append(_ExternalAddress(kind, address, f"{field} {text}"))


def _allowed(kind: int, node: NodeView) -> tuple[str, Networks]:
    """The option that says so, and what it says."""
    if kind == _EXTERNAL_IP:
        return "external-ips", node.allowed.external_ips
    return "load-balancer-ips", node.allowed.load_balancer_ips


def _frontends(
    service: Service,
    port: CheckedPort,
    cluster_ip: bytes,
    external: Iterable[_ExternalAddress],
    node: NodeView,
    warnings: list[str],
) -> tuple[Frontend, ...]:
    """Frontends of one port in one family, each address once.

    Where one address has two roles the more specific comes first and stays: ClusterIP,
    LoadBalancer, ExternalIP, NodePort. iTP governs the ClusterIP (R43), eTP all others;
    that they exist at all is what R46 calls externally accessible.
    """
    spec = service.spec
    number, protocol = port.port, port.protocol_number
    key = FrontendKey(cluster_ip, number, protocol)
    cluster = Frontend(key, _CLUSTER_IP, spec.internalTrafficPolicy == "Local")
    has_node_port = port.node_port and spec.type != "ClusterIP"
    if not external and not has_node_port:
        return (cluster,)
    is_local = spec.externalTrafficPolicy == "Local"
    found = {key: cluster}
    for item in external:
        if item.address in node.all_addresses:
            reason = refused_on_node(number, protocol)
            if reason:
                message = (
                    f"{item.field} is an address of a node and"
                    f" spec.ports[{port.position}].port {number} {reason}: it is not served there"
                )
                warnings.append(_AddressRefused(message))
                continue
        key = FrontendKey(item.address, number, protocol)
        found.setdefault(key, Frontend(key, item.kind, is_local))
    if has_node_port:
        key = FrontendKey(_UNSPECIFIED[family_of(cluster_ip)], port.node_port, protocol)
        found[key] = Frontend(key, _NODE_PORT, is_local)
    return tuple(found.values())


def _service_port(
    service: Service,
    spec: CheckedSpec,
    port: CheckedPort,
    family: int,
    frontends: tuple[Frontend, ...],
    table: EndpointTable,
    source_ranges: tuple[SourceRange, ...],
) -> ServicePort:
    meta = service.metadata
    backends, endpoints = table.port(port.name, port.protocol)
    return ServicePort(
        key=ServicePortKey(meta.namespace, meta.name, port.name, port.protocol_number, family),
        service_type=service.spec.type,
        port=port.port,
        created=meta.creationTimestamp or "",
        frontends=frontends,
        backends=backends,
        affinity_timeout_s=spec.affinity_timeout_s,
        endpoints=endpoints,
        source_ranges=source_ranges,
    )
