# SPDX-License-Identifier: Apache-2.0
"""The network devices of this namespace: read them all, and notice changes.

Every change leads to a full read, so a lost notice costs nothing but time (F68). What
a device is used for is decided in device_roles.py.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from vipbee.address import V4_PREFIX
from vipbee.datapath import rtnetlink as nl

_RTMGRP_LINK, _RTMGRP_TC, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x8, 0x10, 0x100
_RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x40, 0x400
_GROUPS = (
    _RTMGRP_LINK
    | _RTMGRP_TC  # somebody may remove our filter (F52)
    | _RTMGRP_IPV4_IFADDR
    | _RTMGRP_IPV6_IFADDR
    | _RTMGRP_IPV4_ROUTE
    | _RTMGRP_IPV6_ROUTE
)

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_LINK_NETNSID = 3, 4, 10, 18, 37
_IFLA_INFO_KIND = 1
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_SECONDARY = 0x01  # of an IPv6 address: temporary
_IFA_F_UNUSABLE = 0x08 | 0x20 | 0x40  # dad failed, deprecated, tentative
_SCOPE_UNIVERSE = 0
_RTA_OIF, _RTA_MULTIPATH = 4, 9
_RTN_UNICAST, _TABLE_MAIN = 1, 254

SETTLE_S = 0.05
"""A pod's device comes as a burst of notices; one read answers them all."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device. Compares by value, so that a rename or a new MTU is a difference."""

    ifindex: int
    name: str
    kind: str  # IFLA_INFO_KIND: veth, vxlan, bridge …; "" for hardware
    mtu: int
    is_up: bool = True
    is_loopback: bool = False
    has_ethernet: bool = True
    master: int = 0  # ifindex of the bridge, bond or VRF it belongs to
    has_foreign_peer: bool = False  # its other end is in another network namespace
    addresses: tuple[tuple[bytes, int], ...] = ()  # global; 16 bytes and prefix length
    has_default_route: bool = False


def read_devices() -> dict[int, Device]:
    """Every device of the calling thread's namespace, by ifindex."""
    addresses = _read_addresses()
    uplinks = _default_route_devices()
    found = {}
    for message in nl.dump(nl.GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)):
        if message.type != nl.NEWLINK:
            continue
        _, hardware, ifindex, flags, _ = struct.unpack_from("=BxHiII", message.body)
        values = nl.attributes(message.body, 16)
        kind = nl.attributes(values.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
        found[ifindex] = Device(
            ifindex=ifindex,
            name=nl.text(values.get(_IFLA_IFNAME, b"")),
            kind=nl.text(kind),
            mtu=_u4(values.get(_IFLA_MTU)),
            is_up=bool(flags & _IFF_UP),
            is_loopback=bool(flags & _IFF_LOOPBACK),
            has_ethernet=hardware in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK),
            master=_u4(values.get(_IFLA_MASTER)),
            has_foreign_peer=_IFLA_LINK_NETNSID in values,
            addresses=tuple(addresses.get(ifindex, ())),
            has_default_route=ifindex in uplinks,
        )
    return found


async def device_changes() -> AsyncIterator[None]:
    """Yield once at the start, then whenever devices may have changed (bursts as one)."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    changed.set()
    with nl.open_notices(_GROUPS) as netlink:

        def drain() -> None:
            try:
                matters = [_matters(notice) for notice in nl.read_notices(netlink)]
            except OSError:  # ENOBUFS: some were lost, so anything may have happened
                matters = [True]
            if any(matters):
                changed.set()

        loop.add_reader(netlink, drain)
        try:
            while True:
                await changed.wait()
                await asyncio.sleep(SETTLE_S)
                changed.clear()
                yield
        finally:
            loop.remove_reader(netlink)


# ---- parts -----------------------------------------------------------------------------


def _matters(notice: nl.Message) -> bool:
    """Of routes only default ones do: a node may learn a route for each pod, or a million."""
    if notice.type in (nl.NEWROUTE, nl.DELROUTE):
        _, prefix_length = struct.unpack_from("=BB", notice.body)
        return bool(prefix_length == 0)
    return True


def _read_addresses() -> dict[int, list[tuple[bytes, int]]]:
    """Usable global addresses by ifindex, as the kernel lists them, temporary ones last."""
    found: dict[int, list[tuple[bool, bytes, int]]] = defaultdict(list)
    for message in nl.dump(nl.GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        if message.type != nl.NEWADDR:
            continue
        family, prefix_length, flags, scope, ifindex = struct.unpack_from("=BBBBI", message.body)
        values = nl.attributes(message.body, 8)
        raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        flags = _u4(values.get(_IFA_FLAGS)) or flags
        if raw is None or scope != _SCOPE_UNIVERSE or flags & _IFA_F_UNUSABLE:
            continue
        is_v4 = family == socket.AF_INET
        address = V4_PREFIX + raw if is_v4 else raw
        is_temporary = not is_v4 and bool(flags & _IFA_F_SECONDARY)
        found[ifindex].append((is_temporary, address, prefix_length))
    return {
        ifindex: [(address, length) for _, address, length in sorted(rows, key=lambda row: row[0])]
        for ifindex, rows in found.items()
    }


def _default_route_devices() -> set[int]:
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _TABLE_MAIN, 0, 0, _RTN_UNICAST, 0)
        for message in nl.dump(nl.GETROUTE, body):
            if message.type != nl.NEWROUTE:
                continue
            header = struct.unpack_from("=BBBBBBBBI", message.body)
            if header[1] or header[7] != _RTN_UNICAST:
                continue
            values = nl.attributes(message.body, 12)
            if _RTA_OIF in values:
                found.add(_u4(values[_RTA_OIF]))
            found.update(_next_hop_devices(values.get(_RTA_MULTIPATH, b"")))
    return found


def _next_hop_devices(multipath: bytes) -> list[int]:
    """Devices of struct rtnexthop, one after the other."""
    found, offset = [], 0
    while offset + 8 <= len(multipath):
        length, _, _, ifindex = struct.unpack_from("=HBBi", multipath, offset)
        if length < 8:
            break
        found.append(ifindex)
        offset += (length + 3) & ~3
    return found


def _u4(value: bytes | None) -> int:
    return struct.unpack("=I", value)[0] if value is not None and len(value) == 4 else 0
