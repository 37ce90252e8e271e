# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy in IPVS mode leaves: virtual servers, the device kube-ipvs0, sets of addresses.

`kube-proxy --cleanup` flushes all of IPVS. Here only its own virtual servers go: those of an
address on kube-ipvs0, and those of a port in its sets of NodePorts; a keepalived beside it keeps
its own. Sets that a rule still uses cannot be destroyed, so they go after the iptables rules.

pyroute2 is imported where something of kube-proxy's was found: almost nowhere, and that costs
0.1 s. Whether there are sets is asked without it: many networks have some of their own.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vipbee.address import format_address, parse_address
from vipbee.datapath import rtnetlink
from vipbee.errors import KernelError

DEVICE = "kube-ipvs0"
_SERVERS = Path("/proc/net/ip_vs")
_MODULES = Path("/sys/module")
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_NODE_PORT_SETS = {
    f"KUBE-{family}NODE-PORT-{local}{name}": protocol
    for family in ("", "6-")
    for local in ("", "LOCAL-")
    for name, protocol in (("TCP", 6), ("UDP", 17), ("SCTP-HASH", 132))
}
_OTHER_SETS = (
    *("LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER"),
    *("LOAD-BALANCER-FW", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-SOURCE-IP"),
    *("LOAD-BALANCER-SOURCE-CIDR", "HEALTH-CHECK-NODE-PORT", "IPVS-IPS"),
)
_MAX_SET_NAME = 31

# linux/netfilter/ipset/ip_set.h: IPSET_CMD_LIST of nfnetlink's subsystem for sets
_LIST_SETS = 6 << 8 | 7
_PROTOCOL, _SET_NAME, _FLAGS = 1, 2, 6
_NFGENMSG_BYTES = 4
_ALL_BY_NAME = (
    struct.pack("=BBH", socket.AF_INET, 0, 0)
    + rtnetlink.attribute(_PROTOCOL, b"\6")
    + rtnetlink.attribute(_FLAGS, struct.pack("!I", 1 << 1))  # IPSET_FLAG_LIST_SETNAME
)
_SETS = frozenset(
    name[:_MAX_SET_NAME]
    for name in (*_NODE_PORT_SETS, *(f"KUBE-{f}{n}" for f in ("", "6-") for n in _OTHER_SETS))
)
_SERVER = re.compile(
    r"^(TCP|UDP|SCTP) +(?:([0-9A-F]{8})|\[([0-9a-f:]+)\]):([0-9A-F]{4}) ", re.MULTILINE
)


class VirtualServer(NamedTuple):
    protocol: int
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What of IPVS is kube-proxy's."""

    device: int  # ifindex; 0 if there is none
    servers: tuple[VirtualServer, ...]
    sets: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.device or self.servers or self.sets)

    def __str__(self) -> str:
        parts = [DEVICE] if self.device else []
        parts += [f"{len(self.servers)} virtual servers"] if self.servers else []
        parts += [f"{len(self.sets)} sets of addresses"] if self.sets else []
        return ", ".join(parts)


def find() -> Leftovers:
    device, addresses = _device()
    sets = tuple(_sets())
    servers = list(parse_servers(_SERVERS.read_text())) if _SERVERS.exists() else []
    ports = _node_ports(sets) if servers else set()
    return Leftovers(device, tuple(own_servers(servers, addresses, ports)), sets)


def own_servers(
    servers: Collection[VirtualServer],
    addresses: Collection[str],
    node_ports: Collection[tuple[int, int]],
) -> Iterator[VirtualServer]:
    """Those of kube-proxy: of addresses on its device, or of (protocol, port) in its sets."""
    for server in servers:
        if server.address in addresses or (server.protocol, server.port) in node_ports:
            yield server


def parse_servers(text: str) -> Iterator[VirtualServer]:
    """Virtual servers in /proc/net/ip_vs; those by firewall mark are never kube-proxy's."""
    for protocol, v4, v6, port in _SERVER.findall(text):
        address = v6 or ".".join(str(byte) for byte in bytes.fromhex(v4))
        yield VirtualServer(
            _PROTOCOLS[protocol], format_address(parse_address(address)), int(port, 16)
        )


def remove_servers_and_device(found: Leftovers) -> None:
    """Raise KernelError if the kernel refuses."""
    if not (found.servers or found.device):
        return
    from pyroute2 import IPVS, IPRoute, IPVSService
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        if found.servers:
            with IPVS() as ipvs:
                for server in found.servers:
                    key = IPVSService(
                        addr=server.address, port=server.port, protocol=server.protocol
                    )
                    ipvs.service("del", service=key)
        if found.device:
            with IPRoute() as route:
                route.link("del", index=found.device)
    except NetlinkError as error:
        raise KernelError(f"removing kube-proxy's {found}", error.code) from None


def destroy_sets(names: Collection[str]) -> list[str]:
    """Returns those that somebody's rule still uses."""
    if not names:
        return []
    from pyroute2 import IPSet
    from pyroute2.netlink.exceptions import NetlinkError

    kept = []
    with IPSet() as sets:
        for name in names:
            try:
                sets.destroy(name)
            except NetlinkError:
                kept.append(name)
    return kept


def _device() -> tuple[int, set[str]]:
    """Number and addresses of kube-ipvs0."""
    try:
        index = socket.if_nametoindex(DEVICE)
    except OSError:
        return 0, set()
    from pyroute2 import IPRoute

    with IPRoute() as route:
        messages: list[Any] = list(route.addr("dump", index=index))
    texts = [m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS") for m in messages]
    return index, {format_address(parse_address(text)) for text in texts if text}


def _sets() -> list[str]:
    if _MODULES.is_dir() and not (_MODULES / "ip_set").exists():
        return []
    try:
        found = rtnetlink.dump(_LIST_SETS, _ALL_BY_NAME, rtnetlink.NETFILTER)
    except OSError:
        return []  # a kernel without sets has none
    named = [rtnetlink.attributes(message.body, _NFGENMSG_BYTES) for message in found]
    return sorted({rtnetlink.text(a[_SET_NAME]) for a in named if _SET_NAME in a} & _SETS)


def _node_ports(sets: Collection[str]) -> set[tuple[int, int]]:
    from pyroute2 import IPSet

    found: set[tuple[int, int]] = set()
    with IPSet() as handle:
        for name in sets:
            protocol = _NODE_PORT_SETS.get(name)
            if protocol is None:
                continue
            for message in handle.list(name):
                for _, entry in (message.get_attr("IPSET_ATTR_ADT") or {"attrs": ()})["attrs"]:
                    port = entry.get_attr("IPSET_ATTR_PORT_FROM") or entry.get_attr(
                        "IPSET_ATTR_PORT"
                    )
                    if port:
                        found.add((protocol, int(port)))
    return found
