# SPDX-License-Identifier: Apache-2.0
"""The map `devices` as it should be: for each device its addresses for SNAT, MTU and role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vipbee.abi import Layouts
from vipbee.address import family_of
from vipbee.datapath.device_roles import Role


def render_devices(
    layouts: Layouts, roles: Mapping[int, Role], fallback: Sequence[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of the map `devices`.

    A device without an address of a family gets the first of `fallback` (the node's
    addresses, preferred first): packets may leave by it all the same.
    """
    keys = np.array(sorted(roles), dtype=np.uint32)
    values = np.zeros(len(keys), dtype=layouts["device"])
    for value, ifindex in zip(values, keys.tolist(), strict=True):
        role = roles[ifindex]
        # what stands on loopback is often a VIP, which nobody answers to
        own = [] if role.device.is_loopback else [a for a, _ in role.device.addresses]
        for family, member in ((4, "v4"), (6, "v6")):
            address = _first(family, own) or _first(family, fallback)
            if address is not None:
                value[member]["word"] = np.frombuffer(address, dtype=">u4")
        value["mtu"] = role.device.mtu
        value["flags"] = role.flags
    return keys, values


def _first(family: int, addresses: Iterable[bytes]) -> bytes | None:
    return next((address for address in addresses if family_of(address) == family), None)
