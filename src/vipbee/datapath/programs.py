# SPDX-License-Identifier: Apache-2.0
"""The names of the programs in the object, by what they are for."""

from __future__ import annotations

from vipbee.abi import MapName
from vipbee.datapath.syscall import ATTACH_TYPES

SOCKET_PROGRAMS = tuple(ATTACH_TYPES)
STALE_ITERATOR = "vipbee_stale"
RELEASE_ITERATOR = "vipbee_release"

PACKET_PROGRAMS = tuple(
    f"vipbee_{hook}{suffix}"
    for suffix in ("", "_l3")
    for hook in ("uplink_in", "uplink_out", "pod_in", "pod_out")
)
"""The _l3 twins are for devices without Ethernet header."""

SWEEP_PROGRAMS = {
    "vipbee_sweep_outside": MapName.CONNTRACK_OUTSIDE,
    "vipbee_orphans_outside": MapName.NAT_OUTSIDE,
    "vipbee_sweep_pod": MapName.CONNTRACK_POD,
    "vipbee_orphans_pod": MapName.NAT_POD,
}
"""Iterators, and the map each walks; in this order."""
SWEEP_ITERATOR = next(iter(SWEEP_PROGRAMS))
UNFINISHED = {
    MapName.CONNTRACK_OUTSIDE: MapName.CONNTRACK_NEW_OUTSIDE,
    MapName.CONNTRACK_POD: MapName.CONNTRACK_NEW_POD,
    MapName.NAT_OUTSIDE: MapName.NAT_NEW_OUTSIDE,
    MapName.NAT_POD: MapName.NAT_NEW_POD,
}
"""Map of established connections, or of their reverse halves → of those that are not yet."""
