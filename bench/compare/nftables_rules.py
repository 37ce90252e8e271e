# SPDX-License-Identifier: Apache-2.0
"""A cluster as kube-proxy's nftables mode writes it: input for nft -f.

After pkg/proxy/nftables/proxier.go of Kubernetes 1.36, with its defaults and a cluster
CIDR. Left out: the service CIDR's drop of unallocated ClusterIPs, which needs an API server.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Iterator

from bench.compare.services import POD_CIDR, TARGET_PORT, Cluster, Port

_BASE = """\
add table {table} {{ comment "rules for kube-proxy" ; }}
add set {table} cluster-ips {{ type {addr} ; comment "Active ClusterIPs" ; }}
add set {table} nodeport-ips {{ type {addr} ; comment "IPs that accept NodePort traffic" ; }}
add set {table} hairpin-connections {{ type {addr} . {addr} . inet_proto . inet_service ; }}
add map {table} firewall-ips {{ type {addr} . inet_proto . inet_service : verdict ; }}
add map {table} no-endpoint-nodeports {{ type inet_proto . inet_service : verdict ; }}
add map {table} no-endpoint-services {{ type {addr} . inet_proto . inet_service : verdict ; }}
add map {table} service-ips {{ type {addr} . inet_proto . inet_service : verdict ; }}
add map {table} service-nodeports {{ type inet_proto . inet_service : verdict ; }}
add chain {table} cluster-ips-check
add chain {table} filter-prerouting-pre-dnat {{ type filter hook prerouting priority -110 ; }}
add chain {table} filter-output-pre-dnat {{ type filter hook output priority -110 ; }}
add chain {table} filter-forward {{ type filter hook forward priority 0 ; }}
add chain {table} filter-input {{ type filter hook input priority 0 ; }}
add chain {table} filter-output {{ type filter hook output priority 0 ; }}
add chain {table} firewall-check
add chain {table} masquerading
add chain {table} nat-output {{ type nat hook output priority -100 ; }}
add chain {table} nat-postrouting {{ type nat hook postrouting priority 100 ; }}
add chain {table} nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add chain {table} nodeport-endpoints-check
add chain {table} reject-chain
add chain {table} services
add chain {table} service-endpoints-check
add rule {table} cluster-ips-check {ip} daddr @cluster-ips reject
add rule {table} filter-prerouting-pre-dnat ct state new jump firewall-check
add rule {table} filter-forward ct state new jump service-endpoints-check
add rule {table} filter-forward ct state new jump cluster-ips-check
add rule {table} filter-input ct state new jump nodeport-endpoints-check
add rule {table} filter-input ct state new jump service-endpoints-check
add rule {table} filter-output ct state new jump service-endpoints-check
add rule {table} filter-output-pre-dnat ct state new jump firewall-check
add rule {table} filter-output ct state new jump cluster-ips-check
add rule {table} firewall-check {ip} daddr . meta l4proto . th dport vmap @firewall-ips
add rule {table} masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 \
masquerade fully-random
add rule {table} masquerading ct status dnat {ip} saddr . {ip} daddr . meta l4proto . \
th dport @hairpin-connections masquerade fully-random
add rule {table} nat-output jump services
add rule {table} nat-postrouting jump masquerading
add rule {table} nat-prerouting jump services
add rule {table} nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . \
th dport vmap @no-endpoint-nodeports
add rule {table} reject-chain reject
add rule {table} services {ip} daddr @cluster-ips {ip} saddr != {pods} \
mark set mark or 0x4000
add rule {table} services {ip} daddr . meta l4proto . th dport vmap @service-ips
add rule {table} services {ip} daddr @nodeport-ips meta l4proto . th dport \
vmap @service-nodeports
add rule {table} service-endpoints-check {ip} daddr . meta l4proto . th dport \
vmap @no-endpoint-services
add element {table} nodeport-ips {{ {node} }}
"""


def all_rules(cluster: Cluster, node_address: str) -> str:
    """From nothing; `node_address` accepts NodePorts."""
    ip = _ip(cluster)
    lines = [
        _BASE.format(
            table=f"{ip} kube-proxy",
            ip=ip,
            addr=f"ipv{cluster.family}_addr",
            pods=POD_CIDR[cluster.family],
            node=node_address,
        )
    ]
    vips = set()
    for port in cluster.ports():
        if port.vip not in vips:
            vips.add(port.vip)
            lines.append(f"add element {ip} kube-proxy cluster-ips {{ {port.vip} }}")
        lines += _rules_of(port, cluster)
    return "\n".join(lines) + "\n"


def changed_rules(cluster: Cluster, before: Port, after: Port) -> str:
    """One transaction: a Service's endpoints became others."""
    ip, chain = _ip(cluster), _chain("service", after)
    lines = [
        *(f"add {line}" for line in _hairpins(after, cluster)),
        f"flush chain {ip} kube-proxy {chain}",
        _choice(after, ip),
        *(f"delete {line}" for line in _hairpins(before, cluster)),
    ]
    return "\n".join(lines) + "\n"


def _ip(cluster: Cluster) -> str:
    return "ip" if cluster.family == 4 else "ip6"


def _chain(kind: str, port: Port) -> str:
    protocol = port.protocol.lower()
    name = f"{port.key.replace(':', f'/{protocol}/')}"
    digest = b32encode(hashlib.sha256(name.encode()).digest()).decode()[:8]
    return f"{kind}-{digest}-{name}"


def _choice(port: Port, ip: str) -> str:
    protocol = port.protocol.lower()
    choices = " , ".join(
        f"{nth} : {address} . {TARGET_PORT}" for nth, address in enumerate(port.endpoints)
    )
    return (
        f"add rule {ip} kube-proxy {_chain('service', port)} meta l4proto {protocol} "
        f"dnat {ip} addr . port to numgen random mod {len(port.endpoints)} map {{ {choices} }}"
    )


def _hairpins(port: Port, cluster: Cluster) -> Iterator[str]:
    """Endpoints on this node may dial themselves."""
    for address in port.endpoints:
        if address == cluster.servers.local:
            yield (
                f"element {_ip(cluster)} kube-proxy hairpin-connections "
                f"{{ {address} . {address} . {port.protocol.lower()} . {TARGET_PORT} }}"
            )


def _rules_of(port: Port, cluster: Cluster) -> Iterator[str]:
    ip, protocol = _ip(cluster), port.protocol.lower()
    service = _chain("service", port)
    yield f"add chain {ip} kube-proxy {service}"
    yield _choice(port, ip)
    yield (
        f"add element {ip} kube-proxy service-ips "
        f"{{ {port.vip} . {protocol} . {port.port} : goto {service} }}"
    )
    yield from (f"add {line}" for line in _hairpins(port, cluster))
    if port.node_port:
        external = _chain("external", port)
        yield f"add chain {ip} kube-proxy {external}"
        yield f"add rule {ip} kube-proxy {external} mark set mark or 0x4000"
        yield f"add rule {ip} kube-proxy {external} goto {service}"
        yield (
            f"add element {ip} kube-proxy service-nodeports "
            f"{{ {protocol} . {port.node_port} : goto {external} }}"
        )
