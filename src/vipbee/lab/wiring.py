# SPDX-License-Identifier: Apache-2.0
"""Blueprint → the `ip -batch` lines and sysctls of every namespace. Pure.

    routed                                 bridged
    pod eth0 ── veth<n> node               pod eth0 ── veth<n>─┐
      default via 169.254.1.1, fe80::1       default via .1    cni0 .1 node
      (permanent neighbours: no ARP)
                     node eth0 ── port in br0 of the fabric ── eth0 client

    vxlan: as bridged, with `overlay` beside cni0 instead of routes through eth0

Nothing here exists in the machine's own namespace, so there is no way to its uplink.
On nodes an unreachable default route answers whatever the lab does not know: a VIP
packet that nobody translated never leaves its node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from vipbee.lab.blueprint import (
    FABRIC_IPV4,
    FABRIC_IPV6,
    VIP_IPV4,
    VIP_IPV6,
    Blueprint,
    NodePlan,
    PlacePlan,
)
from vipbee.lab.topology import Network

FABRIC_BRIDGE = "br0"
POD_BRIDGE = "cni0"
POD_GATEWAY_IPV4 = "169.254.1.1"
POD_GATEWAY_IPV6 = "fe80::1"
OVERLAY = "overlay"
OVERLAY_ID, OVERLAY_PORT = 1, 8472
OVERLAY_MTU = 1450  # 50 bytes less than the fabric's
HOST_SIDE_MAC = "ee:ee:ee:ee:ee:ee"  # Calico's: every pod may then have the same gateway entry

# Set before any device exists, so that `default` reaches all of them.
SYSCTLS = {
    "ipv4/ping_group_range": "0 2147483647",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    # Addresses are usable at once instead of after a second of duplicate detection.
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/router_solicitations": "0",
}
NODE_SYSCTLS = {
    "ipv4/ip_forward": "1",
    # Every packet to nowhere gets its unreachable at once, not only one a second.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
}


@dataclass(frozen=True, slots=True)
class NamespaceWiring:
    """What to do inside one namespace: `sysctls` (below /proc/sys/net), then `commands`."""

    sysctls: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    bridge_commands: tuple[str, ...] = ()  # for `bridge -batch`, after the others


@dataclass(frozen=True, slots=True)
class Wiring:
    links: tuple[str, ...]  # run in the fabric namespace: makes every link in its final place
    namespaces: dict[str, NamespaceWiring]


def plan_wiring(blueprint: Blueprint) -> Wiring:
    namespaces = {
        blueprint.fabric_namespace: NamespaceWiring(SYSCTLS, tuple(_fabric_commands(blueprint))),
        blueprint.client.namespace: NamespaceWiring(
            SYSCTLS,
            (
                *_fabric_end(blueprint.client),
                *_unreachable_default(),
                *vip_routes(blueprint.nodes[0].place),
            ),
        ),
    }
    for node in blueprint.nodes:
        namespaces[node.place.namespace] = NamespaceWiring(
            SYSCTLS | NODE_SYSCTLS,
            tuple(_node_commands(blueprint, node)),
            tuple(_forwarding_entries(blueprint, node)),
        )
        for pod in _networked_pods(node):
            namespaces[pod.namespace] = NamespaceWiring(
                SYSCTLS, tuple(_pod_commands(blueprint, node, pod))
            )
    return Wiring(links=tuple(_links(blueprint)), namespaces=namespaces)


def pod_device(pod: PlacePlan) -> str:
    """Name of the pod's link on the node: its number, since names may be too long."""
    return f"veth{pod.number}"


def _networked_pods(node: NodePlan) -> list[PlacePlan]:
    return [pod for pod in node.pods if not pod.host_network]


def _fabric_port(place: PlacePlan) -> str:
    return f"port{place.number}"


def _links(blueprint: Blueprint) -> list[str]:
    places = [*(node.place for node in blueprint.nodes), blueprint.client]
    lines = [f"link add {FABRIC_BRIDGE} type bridge mcast_snooping 0"]
    lines += [
        f"link add {_fabric_port(place)} type veth peer name eth0 netns {place.namespace}"
        for place in places
    ]
    for node in blueprint.nodes:
        if blueprint.network.has_bridge:
            lines.append(
                f"link add {POD_BRIDGE} netns {node.place.namespace} type bridge mcast_snooping 0"
            )
        lines += [
            f"link add {pod_device(pod)} netns {node.place.namespace} address {HOST_SIDE_MAC}"
            f" type veth peer name eth0 netns {pod.namespace}"
            if blueprint.network is Network.ROUTED
            else f"link add {pod_device(pod)} netns {node.place.namespace}"
            f" type veth peer name eth0 netns {pod.namespace}"
            for pod in _networked_pods(node)
        ]
    return lines


def _fabric_commands(blueprint: Blueprint) -> list[str]:
    ports = [_fabric_port(node.place) for node in blueprint.nodes]
    ports.append(_fabric_port(blueprint.client))
    return [
        "link set lo up",
        *(f"link set {port} master {FABRIC_BRIDGE} up" for port in ports),
        f"link set {FABRIC_BRIDGE} up",
    ]


def _fabric_end(place: PlacePlan) -> list[str]:
    return [
        "link set lo up",
        "link set eth0 up",
        f"addr add {place.ipv4}/{FABRIC_IPV4.prefixlen} dev eth0",
        f"addr add {place.ipv6}/{FABRIC_IPV6.prefixlen} dev eth0 nodad",
    ]


def _unreachable_default() -> list[str]:
    return ["route add unreachable default", "route add unreachable ::/0 metric 4096"]


def _node_commands(blueprint: Blueprint, node: NodePlan) -> list[str]:
    lines = [*_fabric_end(node.place), *_unreachable_default()]
    if blueprint.network is Network.VXLAN:
        lines += _overlay_commands(blueprint, node)
    for other in blueprint.nodes:
        if other is not node and blueprint.network is not Network.VXLAN:
            lines += [
                f"route add {other.pod_ipv4} via {other.place.ipv4}",
                f"route add {other.pod_ipv6} via {other.place.ipv6}",
            ]
    pods = _networked_pods(node)
    if blueprint.network.has_bridge:
        lines += [
            *(f"link set {pod_device(pod)} master {POD_BRIDGE} up" for pod in pods),
            f"link set {POD_BRIDGE} up",
            f"addr add {node.pod_ipv4[1]}/{node.pod_ipv4.prefixlen} dev {POD_BRIDGE}",
            f"addr add {node.pod_ipv6[1]}/{node.pod_ipv6.prefixlen} dev {POD_BRIDGE} nodad",
        ]
        return lines
    for pod in pods:
        device = pod_device(pod)
        lines += [
            f"link set {device} up",
            f"addr add {POD_GATEWAY_IPV6}/64 dev {device} nodad",
            f"route add {pod.ipv4}/32 dev {device} scope link src {node.place.ipv4}",
            f"route add {pod.ipv6}/128 dev {device} src {node.place.ipv6}",
        ]
    return lines


def vip_routes(node: PlacePlan) -> list[str]:
    """What makes the client send VIPs to this node; the same again with `replace`."""
    return [
        f"route replace {VIP_IPV4} via {node.ipv4}",
        f"route replace {VIP_IPV6} via {node.ipv6}",
    ]


def _overlay_commands(blueprint: Blueprint, node: NodePlan) -> list[str]:
    """Without learning, as flannel: every other node's address and MAC are written down."""
    lines = [
        f"link add {OVERLAY} address {_overlay_mac(node)} mtu {OVERLAY_MTU} type vxlan"
        f" id {OVERLAY_ID} local {node.place.ipv4} dev eth0 dstport {OVERLAY_PORT} nolearning",
        f"link set {OVERLAY} up",
        f"addr add {node.pod_ipv4[0]}/32 dev {OVERLAY}",
        f"addr add {_overlay_ipv6(node)}/128 dev {OVERLAY} nodad",
    ]
    for other in blueprint.nodes:
        if other is node:
            continue
        neighbour = f"lladdr {_overlay_mac(other)} dev {OVERLAY} nud permanent"
        lines += [
            f"neigh add {other.pod_ipv4[0]} {neighbour}",
            f"neigh add {_overlay_ipv6(other)} {neighbour}",
            f"route add {other.pod_ipv4} via {other.pod_ipv4[0]} dev {OVERLAY} onlink",
            f"route add {other.pod_ipv6} via {_overlay_ipv6(other)} dev {OVERLAY} onlink",
        ]
    return lines


def _forwarding_entries(blueprint: Blueprint, node: NodePlan) -> list[str]:
    if blueprint.network is not Network.VXLAN:
        return []
    return [
        f"fdb append {_overlay_mac(other)} dev {OVERLAY} dst {other.place.ipv4}"
        for other in blueprint.nodes
        if other is not node
    ]


def _overlay_mac(node: NodePlan) -> str:
    return f"ee:ee:0a:f4:{node.place.number:02x}:00"


def _overlay_ipv6(node: NodePlan) -> IPv6Address:
    return node.pod_ipv6[0xFFFE]


def _pod_commands(blueprint: Blueprint, node: NodePlan, pod: PlacePlan) -> list[str]:
    mtu = f" mtu {OVERLAY_MTU}" if blueprint.network is Network.VXLAN else ""
    lines = ["link set lo up", f"link set eth0{mtu} up"]
    if blueprint.network.has_bridge:
        return [
            *lines,
            f"addr add {pod.ipv4}/{node.pod_ipv4.prefixlen} dev eth0",
            f"addr add {pod.ipv6}/{node.pod_ipv6.prefixlen} dev eth0 nodad",
            f"route add default via {node.pod_ipv4[1]}",
            f"route add ::/0 via {node.pod_ipv6[1]}",
        ]
    return [
        *lines,
        f"addr add {pod.ipv4}/32 dev eth0",
        f"addr add {pod.ipv6}/128 dev eth0 nodad",
        f"neigh add {POD_GATEWAY_IPV4} lladdr {HOST_SIDE_MAC} dev eth0 nud permanent",
        f"neigh add {POD_GATEWAY_IPV6} lladdr {HOST_SIDE_MAC} dev eth0 nud permanent",
        f"route add default via {POD_GATEWAY_IPV4} dev eth0 onlink",
        f"route add ::/0 via {POD_GATEWAY_IPV6} dev eth0",
    ]
