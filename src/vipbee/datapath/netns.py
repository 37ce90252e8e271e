# SPDX-License-Identifier: Apache-2.0
"""The addresses of the interfaces in the agent's own network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

from vipbee.address import V4_PREFIX
from vipbee.datapath import rtnetlink as nl

_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_SCOPE_UNIVERSE = 0
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF = 1, 4
_ELSEWHERE = ("198.51.100.1", "2001:db8::1")  # documentation: routed like the rest
_IFA_F_UNUSABLE = 0x08 | 0x40  # dad failed, tentative
_IFA_F_DEPRECATED = 0x20  # no source for new connections, still reached by old ones


def local_addresses() -> tuple[bytes, ...]:
    """Global addresses of all interfaces, 16 bytes each, the preferred one of a family first.

    Preferred: on the interface of the default route, then by interface index; deprecated
    ones last. Loopback, link-local and not (yet) usable addresses are left out.
    """
    uplinks = {_way_out(destination) for destination in _ELSEWHERE}
    found = []
    for message in nl.dump(nl.GETADDR, struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, _, flags, scope, index = struct.unpack_from("=BBBBI", message.body)
        values = nl.attributes(message.body, 8)
        raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if raw is None or scope != _SCOPE_UNIVERSE or flags & _IFA_F_UNUSABLE:
            continue
        address = V4_PREFIX + raw if family == socket.AF_INET else raw
        is_deprecated = bool(flags & _IFA_F_DEPRECATED)
        found.append(((is_deprecated, index not in uplinks, index), address))
    return tuple(dict.fromkeys(address for _, address in sorted(found, key=lambda f: f[0])))


def _way_out(destination: str) -> int | None:
    """The interface towards a far address; asks for one route, as a node may have a million."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    raw = socket.inet_pton(family, destination)
    header = struct.pack("=BBBBBBBBI", family, 8 * len(raw), 0, 0, 0, 0, 0, 0, 0)
    try:
        answer = nl.ask(nl.GETROUTE, header + nl.attribute(_RTA_DST, raw))
    except OSError:  # no route
        return None
    value = nl.attributes(answer.body, len(header)).get(_RTA_OIF)
    return None if value is None else int(struct.unpack("=I", value)[0])


async def address_changes() -> AsyncIterator[None]:
    """Yield whenever an address of this namespace was added or removed (bursts as one).

    And once at the start, for what changed before anybody listened.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    changed.set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        netlink.setblocking(False)

        def drain() -> None:
            # ENOBUFS means messages were lost: a full read follows anyway (F68)
            with contextlib.suppress(BlockingIOError, OSError):
                while True:
                    netlink.recv(65536)
            changed.set()

        loop.add_reader(netlink, drain)
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield
        finally:
            loop.remove_reader(netlink)
