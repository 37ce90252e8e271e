# SPDX-License-Identifier: Apache-2.0
"""Which frontend is meant, or why none: bpf/service.h, and what people ask next."""

from __future__ import annotations

from vipbee.abi import AddressFlag, FrontendKind
from vipbee.address import (
    UNSPECIFIED_V4,
    UNSPECIFIED_V6,
    family_of,
    format_address,
    format_endpoint,
)
from vipbee.observe.explain.addresses import is_loopback
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.question import PROTOCOL_NAMES, SCTP, Question
from vipbee.observe.explain.records import Frontend
from vipbee.observe.explain.view import FrontendView

_KIND_RULES = {
    FrontendKind.CLUSTER_IP: "R41",
    FrontendKind.NODE_PORT: "R89",
    FrontendKind.EXTERNAL_IP: "R86",
    FrontendKind.LOAD_BALANCER: "R76",
}


def find_for_socket(question: Question, lookups: Lookups, *, is_node: bool) -> Frontend | None:
    """`find_dialled()` of bpf/sock_decide.h; `is_node`: in the node's network namespace."""
    exact = lookups.frontend(question.address, question.port, question.protocol)
    if exact is not None:
        return exact
    flags = lookups.address_flags(question.address)
    if flags & AddressFlag.NODE and (is_node or not flags & AddressFlag.HOST_ONLY):
        return _node_port(question, lookups)
    return None


def find_for_packet(question: Question, lookups: Lookups) -> Frontend | None:
    """`find_frontend_of()` of bpf/packet_decide.h."""
    exact = lookups.frontend(question.address, question.port, question.protocol)
    if exact is not None:
        return exact
    flags = lookups.address_flags(question.address)
    is_served = flags & AddressFlag.NODE and not flags & AddressFlag.HOST_ONLY
    if is_served and lookups.settings.is_node_port_number(question.port):
        return _node_port(question, lookups)
    return None


def _node_port(question: Question, lookups: Lookups) -> Frontend | None:
    anywhere = UNSPECIFIED_V4 if family_of(question.address) == 4 else UNSPECIFIED_V6
    return lookups.frontend(anywhere, question.port, question.protocol)


def describe(frontend: Frontend, lookups: Lookups) -> tuple[str, tuple[str, ...]]:
    """What it is, and the rules."""
    service = lookups.service(frontend.service_id)
    port = f", port {service.port_name}" if service.port_name else ""
    whose = f"{frontend.kind.label} of Service {service}{port}"
    rules = (_KIND_RULES[frontend.kind],)
    if not frontend.is_on_every_node_address:
        return whose, rules
    number = f"{frontend.port}/{PROTOCOL_NAMES[frontend.protocol]}"
    return f"{whose}: {number} of every address that serves NodePorts", (*rules, "R92")


def why_none(question: Question, lookups: Lookups) -> tuple[str, tuple[str, ...]]:
    """Why this is no frontend, and the rules."""
    shown = format_address(question.address)
    flags = lookups.address_flags(question.address)
    if not flags:
        if lookups.is_in_service_cidr(question.address):
            return f"{shown} is in a ServiceCIDR, and no Service has it", ("R38",)
        if is_loopback(question.address):
            return f"{shown} is loopback, and serves no NodePorts", ("R91",)
        return f"{shown} is no address of a Service, nor one that serves NodePorts", ("R40",)
    if flags & (AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL):
        return _other_ports(question, lookups)
    number = f"{question.port}/{PROTOCOL_NAMES[question.protocol]}"
    node_port = _node_port(question, lookups)
    if flags & AddressFlag.HOST_ONLY:
        if node_port is not None:
            return f"{shown} is loopback: {number} is for sockets of this node only", ("R91",)
        return f"{shown} is loopback, and {number} is no NodePort", ("R91",)
    if flags & AddressFlag.NODE:
        if node_port is not None:  # packets ask within the range only
            first, last = lookups.settings.node_ports
            return f"NodePort {number} is outside the range {first}-{last} of packets", ("R90",)
        return f"{shown} is a node's address, and {number} is no NodePort", ("R90",)
    return f"{shown} is an address of this node that serves no NodePorts", ("R90",)


def _other_ports(question: Question, lookups: Lookups) -> tuple[str, tuple[str, ...]]:
    shown = format_address(question.address)
    there = lookups.frontends_at(question.address)
    services = sorted({str(lookups.service(frontend.service_id)) for frontend in there})
    ports = ", ".join(f"{f.port}/{PROTOCOL_NAMES.get(f.protocol, f.protocol)}" for f in there)
    whose = f" of Service {', '.join(services)}" if services else ""
    kind = there[0].kind.label if there else "VIP"
    rules = ("R16",) if question.protocol == SCTP else ("R10",)
    return f"{shown} is a {kind}{whose}, which has the ports {ports or 'none'} only", rules


def view_of(frontend: Frontend, lookups: Lookups) -> FrontendView:
    service = lookups.service(frontend.service_id)
    anywhere = frontend.is_on_every_node_address
    return FrontendView(
        address="*" if anywhere else format_address(frontend.address),
        port=frontend.port,
        type=frontend.kind.label,
        policy="Local" if frontend.is_policy_local else "Cluster",
        affinity_timeout_seconds=frontend.affinity_timeout_s,
        has_source_ranges=frontend.has_source_ranges,
        namespace=service.namespace,
        name=service.name,
        port_name=service.port_name,
        service_port=service.port,
    )


def summarise(question: Question, frontend: Frontend | None, lookups: Lookups) -> str:
    """The first line of every answer."""
    number = PROTOCOL_NAMES[question.protocol]
    dialled = f"{format_endpoint(question.address, question.port)}/{number}"
    if frontend is None:
        return f"{dialled}: no frontend; {why_none(question, lookups)[0]}"
    return f"{dialled}: {describe(frontend, lookups)[0]}"
