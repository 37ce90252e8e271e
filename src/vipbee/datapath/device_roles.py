# SPDX-License-Identifier: Apache-2.0
"""Which device is an uplink, which one a pod's, which neither. Pure.

    uplink   clients outside, other nodes and overlays come in by it
    pod      host side of a pod's device: the pod's packets come in by it

Lists given by the operator decide alone; without them:

    default route, or a tunnel or overlay                               uplink
    peer in another namespace (veth, netkit), or a VM's tap:
        no global address, or host addresses only (CNI ptp), or a
        port of a bridge                                                pod
    bridge: has a port that is no pod's, and a global address           uplink
    everything else with a global address                               uplink

Loopback is met by the node's own packets for itself, a NodePort for one: its egress only.
A bridge with pods only (cni0, docker0) is neither: its pods' packets have passed the
programs of their own devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vipbee.abi import DeviceFlag
from vipbee.address import family_of
from vipbee.datapath.devices import Device

_TUNNELS = frozenset(
    [
        "vxlan",
        "geneve",
        "bareudp",
        "wireguard",
        "ipip",
        "sit",
        "ip6tnl",
        "gre",
        "gretap",
        "ip6gre",
        "ip6gretap",
        "erspan",
        "ip6erspan",
        "vti",
        "vti6",
        "xfrm",
    ]
)
_PAIRS = frozenset(("veth", "netkit"))
_NEVER = frozenset(("dummy", "ifb", "nlmon", "vrf", "vcan", "can"))
# made by the modules themselves in every namespace; of use only with an address
_FALLBACK_TUNNELS = frozenset(
    ["tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0"]
)
_HOST_PREFIXES = frozenset(((4, 32), (6, 128)))


@dataclass(frozen=True, slots=True)
class Role:
    device: Device
    flags: DeviceFlag  # UPLINK, POD, LOOPBACK or none of them; L3 without Ethernet header

    @property
    def is_attached(self) -> bool:
        return bool(self.flags & (DeviceFlag.UPLINK | DeviceFlag.POD | DeviceFlag.LOOPBACK))


def decide_roles(
    devices: Mapping[int, Device],
    uplinks: Sequence[str] = (),
    pods: Sequence[str] = (),
    pod_bridge: str = "",
) -> dict[int, Role]:
    """The role of every device; patterns as --devices and --pod-devices.

    Ports of `pod_bridge` are pods', as if --pod-devices named them.
    """
    named = {i: _named(device, uplinks, pods) for i, device in devices.items()}
    for i, device in devices.items():
        master = devices.get(device.master)
        if pod_bridge and master and master.name == pod_bridge and named[i] is None:
            named[i] = DeviceFlag.POD
    pods = (*pods, pod_bridge) if pod_bridge else pods
    pod_indices = {
        i
        for i, device in devices.items()
        if named[i] == DeviceFlag.POD or (named[i] is None and not pods and _is_pod(device))
    }
    bridges_beyond_pods = {
        device.master for i, device in devices.items() if device.master and i not in pod_indices
    }
    found = {}
    for i, device in devices.items():
        if device.is_loopback:
            found[i] = Role(device, DeviceFlag.LOOPBACK)
            continue
        flags = named[i] or DeviceFlag(0)
        if i in pod_indices:
            flags = DeviceFlag.POD
        elif named[i] is None and not uplinks and _is_uplink(device, bridges_beyond_pods):
            flags = DeviceFlag.UPLINK
        found[i] = Role(device, flags if device.has_ethernet else flags | DeviceFlag.L3)
    return found


def matches(name: str, patterns: Iterable[str]) -> bool:
    """As iptables: `eth+` stands for every name that begins with eth."""
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
        for pattern in patterns
    )


def _named(device: Device, uplinks: Sequence[str], pods: Sequence[str]) -> DeviceFlag | None:
    if matches(device.name, uplinks):
        return DeviceFlag.UPLINK
    if matches(device.name, pods):
        return DeviceFlag.POD
    return None


def _is_pod(device: Device) -> bool:
    if device.has_default_route or not device.has_ethernet:
        return False
    is_pair = device.kind in _PAIRS and device.has_foreign_peer
    if not is_pair and device.kind != "tun":  # of kind tun with an Ethernet header: a tap
        return False
    hosts_only = all((family_of(a), length) in _HOST_PREFIXES for a, length in device.addresses)
    return bool(device.master) or hosts_only


def _is_uplink(device: Device, bridges_beyond_pods: set[int]) -> bool:
    if device.kind in _NEVER:
        return False
    if device.has_default_route:
        return True
    if device.kind in _TUNNELS and device.name not in _FALLBACK_TUNNELS:
        return True
    if device.kind == "bridge" and device.ifindex not in bridges_beyond_pods:
        return False
    return bool(device.addresses)
