# SPDX-License-Identifier: Apache-2.0
"""A cluster as kube-proxy's iptables mode writes it: input for iptables-restore --noflush.

After pkg/proxy/iptables/proxier.go of Kubernetes 1.36, with its defaults and a cluster
CIDR. Left out: nfacct counters, and the kubelet's chains. As there, rules have no comments
from 1,000 endpoints on.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterable, Iterator

from bench.compare.services import POD_CIDR, TARGET_PORT, Cluster, Port

LARGE_CLUSTER_ENDPOINTS = 1000
_CHAINS = {
    "filter": ("NODEPORTS", "SERVICES", "EXTERNAL-SERVICES", "FORWARD", "PROXY-FIREWALL"),
    "nat": ("NODEPORTS", "SERVICES", "MARK-MASQ", "POSTROUTING"),
}
_NEW = "-m conntrack --ctstate NEW "
_JUMPS = {
    "filter": [
        ("INPUT", _NEW, "kubernetes externally-visible service portals", "EXTERNAL-SERVICES"),
        ("FORWARD", _NEW, "kubernetes externally-visible service portals", "EXTERNAL-SERVICES"),
        ("INPUT", "", "kubernetes health check service ports", "NODEPORTS"),
        ("FORWARD", _NEW, "kubernetes service portals", "SERVICES"),
        ("OUTPUT", _NEW, "kubernetes service portals", "SERVICES"),
        ("FORWARD", "", "kubernetes forwarding rules", "FORWARD"),
        ("INPUT", _NEW, "kubernetes load balancer firewall", "PROXY-FIREWALL"),
        ("OUTPUT", _NEW, "kubernetes load balancer firewall", "PROXY-FIREWALL"),
        ("FORWARD", _NEW, "kubernetes load balancer firewall", "PROXY-FIREWALL"),
    ],
    "nat": [
        ("OUTPUT", "", "kubernetes service portals", "SERVICES"),
        ("PREROUTING", "", "kubernetes service portals", "SERVICES"),
        ("POSTROUTING", "", "kubernetes postrouting rules", "POSTROUTING"),
    ],
}
_FILTER = """\
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 \
-j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack \
--ctstate RELATED,ESTABLISHED -j ACCEPT"""
_POSTROUTING = """\
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" \
-j MASQUERADE --random-fully"""
_NODEPORTS_LAST = (
    "-A KUBE-SERVICES -m comment --comment "
    '"kubernetes service nodeports; NOTE: this must be the last rule in this chain" '
    "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
)


def jump_rules() -> str:
    """What hooks kube-proxy's chains into the built-in ones: once, into empty tables."""
    lines = []
    for table, jumps in _JUMPS.items():
        lines.append(f"*{table}")
        lines += [f":KUBE-{chain} - [0:0]" for chain in _CHAINS[table]]
        lines += [
            f'-I {chain} {match}-m comment --comment "{comment}" -j KUBE-{target}'
            for chain, match, comment, target in jumps
        ]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def all_rules(cluster: Cluster) -> str:
    """A full sync."""
    ports = list(cluster.ports())
    return _restore(cluster, ports, ports)


def partial_rules(cluster: Cluster, changed: Port) -> str:
    """One Service changed: its chains, and KUBE-SERVICES and KUBE-NODEPORTS whole as ever.

    As there, the chains of endpoints that are gone stay until a later cleanup.
    """
    ports = list(cluster.ports())
    return _restore(cluster, ports, [changed])


def _restore(cluster: Cluster, ports: list[Port], written: Iterable[Port]) -> str:
    large = sum(len(port.endpoints) for port in ports) > LARGE_CLUSTER_ENDPOINTS
    chains: list[str] = []
    rules: list[str] = []
    for port in written:
        chains += _chains_of(port)
        rules += _rules_of(port, POD_CIDR[cluster.family], large=large)
    lines = ["*filter", *(f":KUBE-{chain} - [0:0]" for chain in _CHAINS["filter"]), _FILTER]
    lines += ["COMMIT", "*nat"]
    lines += [f":KUBE-{chain} - [0:0]" for chain in (*_CHAINS["nat"], *chains)]
    for port in ports:
        lines += _entry_rules(port, large=large)
    lines += [_NODEPORTS_LAST, _POSTROUTING, *rules, "COMMIT"]
    return "\n".join(lines) + "\n"


def _hash(*parts: str) -> str:
    return b32encode(hashlib.sha256("".join(parts).encode()).digest()).decode()[:16]


def _service_hash(port: Port) -> str:
    return _hash(port.key, port.protocol.lower())


def _endpoint(address: str) -> str:
    return f"[{address}]:{TARGET_PORT}" if ":" in address else f"{address}:{TARGET_PORT}"


def _endpoint_hash(port: Port, address: str) -> str:
    return _hash(port.key, port.protocol.lower(), _endpoint(address))


def _chains_of(port: Port) -> list[str]:
    chains = [f"SVC-{_service_hash(port)}"]
    if port.node_port:
        chains.append(f"EXT-{_service_hash(port)}")
    return chains + [f"SEP-{_endpoint_hash(port, address)}" for address in port.endpoints]


def _comment(text: str, *, large: bool) -> str:
    return "" if large else f'-m comment --comment "{text}" '


def _match(port: Port) -> str:
    protocol = port.protocol.lower()
    return f"-m {protocol} -p {protocol}"


def _entry_rules(port: Port, *, large: bool) -> Iterator[str]:
    """The rules that every first packet of a connection goes past, one after another."""
    yield (
        f"-A KUBE-SERVICES {_comment(f'{port.key} cluster IP', large=large)}{_match(port)} "
        f"-d {port.vip} --dport {port.port} -j KUBE-SVC-{_service_hash(port)}"
    )
    if port.node_port:
        yield (
            f"-A KUBE-NODEPORTS {_comment(port.key, large=large)}{_match(port)} "
            f"--dport {port.node_port} -j KUBE-EXT-{_service_hash(port)}"
        )


def _rules_of(port: Port, pod_cidr: str, *, large: bool) -> Iterator[str]:
    name = _service_hash(port)
    if port.node_port:
        masquerade = f"masquerade traffic for {port.key} external destinations"
        yield f"-A KUBE-EXT-{name} {_comment(masquerade, large=large)}-j KUBE-MARK-MASQ"
        yield f"-A KUBE-EXT-{name} -j KUBE-SVC-{name}"
    yield (
        f"-A KUBE-SVC-{name} {_comment(f'{port.key} cluster IP', large=large)}{_match(port)} "
        f"-d {port.vip} --dport {port.port} ! -s {pod_cidr} -j KUBE-MARK-MASQ"
    )
    for nth, address in enumerate(port.endpoints):
        left = len(port.endpoints) - nth
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield (
            f"-A KUBE-SVC-{name} {_comment(f'{port.key} -> {_endpoint(address)}', large=large)}"
            f"{chance}-j KUBE-SEP-{_endpoint_hash(port, address)}"
        )
    for address in port.endpoints:
        chain = f"KUBE-SEP-{_endpoint_hash(port, address)}"
        comment = _comment(port.key, large=large)
        yield f"-A {chain} {comment}-s {address} -j KUBE-MARK-MASQ"
        yield f"-A {chain} {comment}{_match(port)} -j DNAT --to-destination {_endpoint(address)}"
