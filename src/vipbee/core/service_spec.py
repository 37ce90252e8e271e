# SPDX-License-Identifier: Apache-2.0
"""Read a Service's spec strictly: what the API server would have refused is refused here.

A state file has no API server in front of it. A Service with a field the API would not
have accepted is skipped whole, with every such field named: serving half of something
that was mistyped is worse than saying so. Must not know endpoints or nodes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vipbee.address import family_of, parse_address
from vipbee.core.policy import refused_vip
from vipbee.model import PortSpec, Service, ServiceSpec

DEFAULT_AFFINITY_TIMEOUT_S = 10800
MAX_AFFINITY_TIMEOUT_S = 86400

_FAMILIES = {"IPv4": 4, "IPv6": 6}
_PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_TYPES = frozenset(("ClusterIP", "NodePort", "LoadBalancer"))
_POLICIES = frozenset((None, "", "Cluster", "Local"))
# DNS labels in Kubernetes; here any printable ASCII without "/" (it separates namespace
# and name) that fits char[64] of the `services` map.
_NAME = re.compile(r"[!-.0-~]{1,63}")


class CheckedPort(NamedTuple):
    position: int  # in spec.ports
    name: str
    protocol: str  # "TCP", "UDP", "SCTP"
    protocol_number: int
    port: int
    node_port: int  # 0: none


class CheckedSpec(NamedTuple):
    cluster_ips: tuple[tuple[int, bytes], ...]  # family, address
    ports: tuple[CheckedPort, ...]
    affinity_timeout_s: int  # 0: no affinity


def counts(service: Service) -> bool:
    """Whether the Service is one a proxy serves (R1); headless ones and ExternalNames are not."""
    spec = service.spec
    return spec.type != "ExternalName" and spec.clusterIP != "None"


def check_spec(service: Service) -> tuple[CheckedSpec, list[str]]:
    """Return the values and what is wrong; the values mean something only if nothing is."""
    spec = service.spec
    wrong: list[str] = []
    _check_names(service, wrong)
    if spec.type not in _TYPES:
        wrong.append(f"spec.type {spec.type!r} is not ClusterIP, NodePort or LoadBalancer")
    if spec.internalTrafficPolicy not in _POLICIES:
        wrong.append(
            f"spec.internalTrafficPolicy {spec.internalTrafficPolicy!r} is not Cluster or Local"
        )
    if spec.externalTrafficPolicy not in _POLICIES:
        wrong.append(
            f"spec.externalTrafficPolicy {spec.externalTrafficPolicy!r} is not Cluster or Local"
        )
    if not 0 <= spec.healthCheckNodePort <= 65535:
        wrong.append(f"spec.healthCheckNodePort {spec.healthCheckNodePort} is not in 1..65535")
    checked = CheckedSpec(
        _check_cluster_ips(spec, wrong),
        _check_ports(spec.ports, wrong),
        _check_affinity(spec, wrong),
    )
    return checked, wrong


def _check_names(service: Service, wrong: list[str]) -> None:
    meta = service.metadata
    for field, text in (("namespace", meta.namespace), ("name", meta.name)):
        if not _NAME.fullmatch(text):
            wrong.append(
                f"metadata.{field} {text!r} is not 1 to 63 printable ASCII characters without '/'"
            )


def _check_cluster_ips(spec: ServiceSpec, wrong: list[str]) -> tuple[tuple[int, bytes], ...]:
    """One address per family (R116).

    Without ipFamilies, which the API server always fills in, the addresses themselves
    say which family they are.
    """
    if not spec.clusterIP:
        # R1 ignores such a Service; from an API server it never comes, so say why.
        wrong.append("spec.clusterIP is empty: give the Service an address, or None")
        return ()
    texts = spec.clusterIPs or [spec.clusterIP]
    families = spec.ipFamilies or ()
    found: dict[int, bytes] = {}
    for index, text in enumerate(texts):
        field = f"spec.clusterIPs[{index}]" if spec.clusterIPs else "spec.clusterIP"
        try:
            address = parse_address(text)
        except ValueError as error:
            wrong.append(f"{field} {error}")
            continue
        family = family_of(address)
        reason = refused_vip(address)
        if reason:
            wrong.append(f"{field} {text} is {reason} and can never be a VIP")
        elif index < len(families) and _FAMILIES.get(families[index]) != family:
            wrong.append(f"{field} {text} is not {families[index]!a}, as spec.ipFamilies says")
        elif family in found:
            wrong.append(f"{field} {text} is the second address of its family")
        elif not families or index < len(families):
            found[family] = address
    if spec.clusterIPs and not _same_address(spec.clusterIP, spec.clusterIPs[0]):
        wrong.append(f"spec.clusterIP {spec.clusterIP!r} and spec.clusterIPs[0] differ")
    return tuple(found.items())


def _same_address(text: str, other: str) -> bool:
    """Compare by value (R25); what cannot be parsed is the same only literally."""
    if text == other:
        return True
    try:
        return parse_address(text) == parse_address(other)
    except ValueError:
        return False


def _check_ports(ports: list[PortSpec] | None, wrong: list[str]) -> tuple[CheckedPort, ...]:
    if not ports:
        wrong.append("spec.ports is empty")
        return ()
    checked = []
    for position, port in enumerate(ports):
        name, protocol = port.name or "", port.protocol
        protocol_number = _PROTOCOL_NUMBERS.get(protocol, 0)
        field = f"spec.ports[{position}]"
        if not 0 < port.port <= 65535:
            wrong.append(f"{field}.port {port.port} is not in 1..65535")
        if not 0 <= port.nodePort <= 65535:
            wrong.append(f"{field}.nodePort {port.nodePort} is not in 1..65535")
        if not protocol_number:
            wrong.append(f"{field}.protocol {protocol!r} is not TCP, UDP or SCTP")
        if name and not _NAME.fullmatch(name):
            wrong.append(f"{field}.name {name!r} is not 1 to 63 printable ASCII characters")
        checked.append(
            CheckedPort(position, name, protocol, protocol_number, port.port, port.nodePort)
        )
    if len(checked) > 1:
        _check_twins(checked, wrong)
    return tuple(checked)


def _check_twins(ports: list[CheckedPort], wrong: list[str]) -> None:
    """Ports of one Service differ in name, number and nodePort, each per protocol."""
    seen: dict[tuple[str, str | int, str], int] = {}
    for port in ports:
        fields: list[tuple[str, str | int]] = [("name", port.name), ("port", port.port)]
        if port.node_port:
            fields.append(("nodePort", port.node_port))
        for field, value in fields:
            twin = seen.setdefault((field, value, port.protocol), port.position)
            if twin != port.position:
                wrong.append(
                    f"spec.ports[{port.position}].{field} {value!r} ({port.protocol})"
                    f" is also that of spec.ports[{twin}]"
                )


def _check_affinity(spec: ServiceSpec, wrong: list[str]) -> int:
    """Seconds (R63), 0 without affinity."""
    if spec.sessionAffinity in ("None", ""):
        return 0
    if spec.sessionAffinity != "ClientIP":
        wrong.append(f"spec.sessionAffinity {spec.sessionAffinity!r} is not None or ClientIP")
        return 0
    config = spec.sessionAffinityConfig
    timeout_s = config.clientIP.timeoutSeconds if config and config.clientIP else None
    if timeout_s is None:
        return DEFAULT_AFFINITY_TIMEOUT_S
    if not 0 < timeout_s <= MAX_AFFINITY_TIMEOUT_S:
        wrong.append(
            f"spec.sessionAffinityConfig.clientIP.timeoutSeconds {timeout_s}"
            f" is not in 1..{MAX_AFFINITY_TIMEOUT_S}"
        )
    return timeout_s
