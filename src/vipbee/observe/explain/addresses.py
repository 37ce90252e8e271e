# SPDX-License-Identifier: Apache-2.0
"""Addresses that no packet from a device may carry: bpf/martian.h."""

from __future__ import annotations

from vipbee.abi import AddressFlag
from vipbee.address import LOOPBACK_V6, UNSPECIFIED_V6, V4_PREFIX, family_of, format_address
from vipbee.observe.explain.lookups import Lookups

_NODE_S = AddressFlag.OWN | AddressFlag.SNAT
_SERVICE_S = AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL


def is_loopback(address: bytes) -> bool:
    if family_of(address) == 4:
        return address[len(V4_PREFIX)] == 127
    return address == LOOPBACK_V6


def martian_source(lookups: Lookups, source: bytes, destination: bytes) -> str | None:
    """What is impossible about a source, `is_martian_source()`; None: nothing."""
    shown = format_address(source)
    if _is_unanswerable(source) or is_loopback(source):
        return f"nobody outside can have the address {shown}"
    if source == destination:
        return f"source and destination are both {shown}"
    flags = lookups.address_flags(source)
    if flags & _NODE_S:
        return f"{shown} is an address of this node: nobody else may send from it"
    if flags & _SERVICE_S:
        return f"{shown} is an address of a Service: nobody sends from it"
    return None


def _is_unanswerable(source: bytes) -> bool:
    """This network, multicast, class E, broadcast, unspecified."""
    if family_of(source) == 4:
        return not 0 < source[len(V4_PREFIX)] < 224
    return source[0] == 0xFF or source == UNSPECIFIED_V6
