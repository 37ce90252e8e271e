# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: everything that is tried on an old kernel, in one boot.

Reports what it saw and asserts nothing, so that the host's tests name each fact.
"""

from __future__ import annotations

from tests.kernels import guest_packets, guest_sockets
from tests.kernels.guest_places import places
from tests.kernels.guest_product import CGROUP, PINS, import_everything, vipbee


def main() -> dict[str, object]:
    CGROUP.mkdir()
    import_everything()
    with places() as (client, far, near):  # made first: they stay outside the cgroup
        seen: dict[str, object] = {"check": vipbee("check")}
        seen["sockets"] = guest_sockets.see()
        seen["packets"] = guest_packets.see(client, far, near)
    seen["left_behind"] = sorted(str(path) for path in PINS.parent.rglob("*"))
    return seen
