# SPDX-License-Identifier: Apache-2.0
"""More changes of addresses and devices than the kernel keeps notices of: F68."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.hooked import Hooked
from vipbee.address import parse_address
from vipbee.datapath.device_notices import device_changes
from vipbee.datapath.devices import read_devices
from vipbee.datapath.netns import address_changes, local_addresses

LAST = "10.99.0.1"
FLOOD = [
    f"addr {verb} 10.98.{number // 250}.{number % 250 + 1}/32 dev one"
    for number in range(2000)
    for verb in ("add", "del")
]
COMMANDS = [
    "link add one type veth peer name two",
    "link set one up",
    *FLOOD,
    f"addr add {LAST}/24 dev one",
]


def address_is_known() -> bool:
    return parse_address(LAST) in local_addresses()


def device_is_known() -> bool:
    wanted = (parse_address(LAST), 24)
    return any(wanted in device.addresses for device in read_devices().values())


def lost_notices() -> int:
    """Of the route netlink sockets of this namespace."""
    rows = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()]
    column = rows[0].index("Drops")
    return sum(int(row[column]) for row in rows[1:] if row[1] == "0")


async def seen_after_flood(
    changes: AsyncIterator[None], is_known: Callable[[], bool]
) -> tuple[bool, int]:
    """Whether a full read at one of the notices shows the last change, and how many were lost."""
    await anext(changes)
    assert not is_known()
    # the loop stands still meanwhile, as it does while 50,000 endpoints are programmed
    subprocess.run(["ip", "-batch", "-"], input="\n".join(COMMANDS), text=True, check=True)
    lost = lost_notices()
    async with asyncio.timeout(10):
        async for _ in changes:
            if is_known():
                return True, lost
    return False, lost


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [(address_changes, address_is_known), (device_changes, device_is_known)],
    ids=["addresses", "devices"],
)
def test_what_changed_unseen_is_read_all_the_same(
    as_root: None, changes: Callable[[], AsyncIterator[None]], is_known: Callable[[], bool]
) -> None:
    """F68: ENOBUFS is a notice like any other, and each leads to a full read."""
    with Hooked.up(loaded=False) as hooked:
        seen, lost = hooked.run(lambda: asyncio.run(seen_after_flood(changes(), is_known)))

    assert lost > 0
    assert seen
