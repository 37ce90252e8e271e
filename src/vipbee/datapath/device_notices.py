# SPDX-License-Identifier: Apache-2.0
"""Notices that network devices, their addresses or default routes may have changed.

Every change leads to a full read (devices.py), so a lost notice costs nothing but time (F68).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

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

SETTLE_S = 0.05
"""A pod's device comes as a burst of notices; one read answers them all."""


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


def _matters(notice: nl.Message) -> bool:
    """Of routes only default ones do: a node may learn a route for each pod, or a million."""
    if notice.type in (nl.NEWROUTE, nl.DELROUTE):
        _, prefix_length = struct.unpack_from("=BB", notice.body)
        return bool(prefix_length == 0)
    return True
