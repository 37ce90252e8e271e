# SPDX-License-Identifier: Apache-2.0
"""Addresses no Service may take over, and no Service may send traffic to.

A socket hook rewrites every connection of every process on the node, the kubelet's
and sshd's included, before a packet exists. So what kube-proxy leaves to trust is
denied here, for any source of objects and without override: CVE-2020-8554
(externalIPs capture traffic), CVE-2021-25737 (EndpointSlices that name loopback or
link-local addresses). v4-mapped IPv6 text never gets here, `parse_address` refuses it.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from vipbee.address import V4_PREFIX, family_of


class _Network(NamedTuple):
    family: int
    first: int
    last: int
    what: str


def _network(cidr: str, what: str) -> _Network:
    network = ip_network(cidr)
    first = int(network.network_address)
    return _Network(network.version, first, first + network.num_addresses - 1, what)


# The first network that contains an address names it, so the narrow ones stand first.
_DENIED = (
    _network("169.254.169.254/32", "the cloud metadata address"),
    _network("168.63.129.16/32", "the cloud metadata address of Azure"),
    _network("100.100.100.200/32", "the cloud metadata address of Alibaba"),
    _network("fd00:ec2::254/128", "the cloud metadata address of AWS"),
    _network("fd20:ce::254/128", "the cloud metadata address of Google"),
    _network("0.0.0.0/32", "the unspecified address"),
    _network("0.0.0.0/8", "an address of this network (0.0.0.0/8)"),
    _network("127.0.0.0/8", "a loopback address"),
    _network("169.254.0.0/16", "a link-local address"),
    _network("224.0.0.0/4", "a multicast address"),
    _network("255.255.255.255/32", "the broadcast address"),
    _network("240.0.0.0/4", "a reserved address (240.0.0.0/4)"),
    _network("::/128", "the unspecified address"),
    _network("::1/128", "a loopback address"),
    _network("fe80::/10", "a link-local address"),
    _network("ff00::/8", "a multicast address"),
)


def _leading_bytes(family: int) -> frozenset[int]:
    """First bytes an address of a denied network can have."""
    shift = 24 if family == 4 else 120
    return frozenset(
        byte
        for network in _DENIED
        if network.family == family
        for byte in range(network.first >> shift, (network.last >> shift) + 1)
    )


SUSPECT_V4 = _leading_bytes(4)
"""An IPv4 address whose first octet is not in here is in no denied network."""
SUSPECT_V6 = _leading_bytes(6)
"""An IPv6 address whose first byte is not in here is in no denied network."""

# What listens on every node and must stay reachable whatever a Service says:
# 6443 the API server, 2379 and 2380 etcd, 10250 kubelet, 10256 and 10249 the proxy's own
# health and metrics.
_NODE_DAEMON_PORTS = frozenset((2379, 2380, 6443, 10249, 10250, 10256))


def _denied(address: bytes) -> str | None:
    family = family_of(address)
    # Nearly every address ends here; the search costs more than all else of `select`.
    if family == 4:
        if address[len(V4_PREFIX)] not in SUSPECT_V4:
            return None
    elif address[0] not in SUSPECT_V6:
        return None
    return _search(address, family)


@lru_cache(maxsize=4096)
def _search(address: bytes, family: int) -> str | None:
    number = int.from_bytes(address[len(V4_PREFIX) :] if family == 4 else address)
    for network in _DENIED:
        if network.family == family and network.first <= number <= network.last:
            return network.what
    return None


def refused_vip(address: bytes) -> str | None:
    """Say what the address is ("a loopback address") if it must never be a VIP."""
    return _denied(address)


def refused_backend(address: bytes) -> str | None:
    """Say what the address is if no Service may send traffic there."""
    return _denied(address)


def refused_on_node(port: int, protocol: int) -> str | None:
    """Say why a VIP that is a node's own address must not have this port.

    VIPs on node addresses are in use (externalIPs, the load balancer of k3s), so
    only the ports of the node's daemons are denied. A ClusterIP there is denied
    whole by `select`: its unknown ports are refused, the node's sshd with them.
    """
    if protocol == 6 and port in _NODE_DAEMON_PORTS:
        return "belongs to a daemon of the node"
    return None
