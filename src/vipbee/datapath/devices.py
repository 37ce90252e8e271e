# SPDX-License-Identifier: Apache-2.0
"""The network devices of this namespace, read all at once.

What a device is used for is decided in device_roles.py; changes are noticed by
device_notices.py.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from dataclasses import dataclass

from vipbee.address import V4_PREFIX
from vipbee.datapath import rtnetlink as nl

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


# ---- parts -----------------------------------------------------------------------------


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
