# SPDX-License-Identifier: Apache-2.0
"""The agent's own network namespace: its cookie and the addresses of its interfaces."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vipbee.address import parse_address

_SO_NETNS_COOKIE = 71
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_SCOPE_UNIVERSE = 0
_ELSEWHERE = ("198.51.100.1", "2001:db8::1")  # documentation: routed like the rest
_IFA_F_UNUSABLE = 0x08 | 0x40  # dad failed, tentative
_IFA_F_DEPRECATED = 0x20  # no source for new connections, still reached by old ones


def netns_cookie() -> int:
    """The cookie BPF sees for this namespace; 0 if the kernel cannot tell (below 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    (cookie,) = struct.unpack("=Q", raw)
    return int(cookie)


async def local_addresses() -> tuple[bytes, ...]:
    """Global addresses of all interfaces, 16 bytes each, the preferred one of a family first.

    Preferred: on the interface of the default route, then by interface index; deprecated
    ones last. Loopback, link-local and not (yet) usable addresses are left out.
    """
    found = []
    async with AsyncIPRoute() as route:
        uplinks = {await _way_out(route, destination) for destination in _ELSEWHERE}
        async for message in await route.addr("dump"):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            is_global = message["scope"] == _SCOPE_UNIVERSE
            if text is None or not is_global or message["flags"] & _IFA_F_UNUSABLE:
                continue
            index = message["index"]
            is_deprecated = bool(message["flags"] & _IFA_F_DEPRECATED)
            order = (is_deprecated, index not in uplinks, index)
            found.append((order, parse_address(text)))
    return tuple(dict.fromkeys(address for _, address in sorted(found, key=lambda f: f[0])))


async def _way_out(route: AsyncIPRoute, destination: str) -> int | None:
    """The interface towards a far address; asks for one route, as a node may have a million."""
    try:
        (message,) = await route.route("get", dst=destination)
    except NetlinkError:  # no route
        return None
    index: int | None = message.get_attr("RTA_OIF")
    return index


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
