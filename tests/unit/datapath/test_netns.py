# SPDX-License-Identifier: Apache-2.0
"""Addresses of the network namespace the tests run in; they change nothing there."""

from __future__ import annotations

import asyncio

from vipbee.datapath.netns import address_changes


def test_whoever_follows_addresses_reads_them_once_after_listening_began() -> None:
    """What changed between a first look and the subscription would be missed for ever."""

    async def first() -> None:
        changes = address_changes()
        try:
            await asyncio.wait_for(anext(changes), timeout=10)
        finally:
            await changes.aclose()  # type: ignore[attr-defined]

    asyncio.run(first())
