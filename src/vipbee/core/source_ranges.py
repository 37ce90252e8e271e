# SPDX-License-Identifier: Apache-2.0
"""loadBalancerSourceRanges: from the text of a Service to entries of the trie (R80-R85)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import collapse_addresses, ip_network
from typing import Any

import numpy as np

from vipbee.abi import Layouts, MapName
from vipbee.address import family_of, format_address, parse_address
from vipbee.core.plan import Changes
from vipbee.core.snapshot import Records
from vipbee.errors import CapacityError
from vipbee.model import SourceRange

_BITS = {4: 32, 6: 128}
_Network = Any  # of ipaddress: IPv4Network and IPv6Network share no type that can be subtracted
_EVERYBODY = {4: "0.0.0.0/0", 6: "::/0"}
_NOBODY = {4: "0.0.0.0/32", 6: "::/128"}
_V4_OFFSET = 96  # bits of the v4-mapped prefix
_SERVICE_ID_BITS = 32  # always compared in full: the ranges of a Service are a trie of their own


def parse_source_ranges(
    texts: Iterable[str],
) -> tuple[dict[int, tuple[SourceRange, ...]], list[str]]:
    """Return the ranges by family, and the texts that are none (R83: those are skipped).

    A family without a range, or with one of length zero, is missing: it is open (R82, R83).
    """
    by_family, unreadable = _networks(texts)
    return {
        family: tuple(sorted({_range(network) for network in networks}))
        for family, networks in by_family.items()
        if all(network.prefixlen for network in networks)
    }, unreadable


def complement(texts: Iterable[str]) -> dict[int, tuple[SourceRange, ...]]:
    """Who is left by a list of those who may not, by family; a family without any is open.

    If nobody is left, the one range is the unspecified address, which nobody has.
    """
    result: dict[int, tuple[SourceRange, ...]] = {}
    by_family, _ = _networks(texts)
    for family, networks in by_family.items():
        left: list[_Network] = [ip_network(_EVERYBODY[family])]
        for denied in collapse_addresses(networks):
            around = [network for network in left if denied.subnet_of(network)]
            left = [network for network in left if not denied.subnet_of(network)]
            left += [rest for network in around for rest in network.address_exclude(denied)]
        left = left or [ip_network(_NOBODY[family])]
        result[family] = tuple(sorted(_range(network) for network in left))
    return result


def contains(ranges: Iterable[SourceRange], address: bytes) -> bool:
    """Whether any of the ranges covers this address (16 bytes)."""
    family = family_of(address)
    return any(
        family_of(entry.address) == family
        and ip_network(f"{format_address(address)}/{entry.prefix_length}", strict=False)
        == ip_network(f"{format_address(entry.address)}/{entry.prefix_length}")
        for entry in ranges
    )


def _networks(
    texts: Iterable[str],
) -> tuple[dict[int, list[_Network]], list[str]]:
    """By family, without families that have none; and the texts that are no networks."""
    found: dict[int, list[_Network]] = {}
    unreadable = []
    for text in texts:
        try:
            network = ip_network(text.strip(), strict=False)
        except ValueError:
            unreadable.append(text)
        else:
            found.setdefault(network.version, []).append(network)
    return found, unreadable


def _range(network: _Network) -> SourceRange:
    return SourceRange(parse_address(str(network.network_address)), network.prefixlen)


def host_range(address: bytes) -> SourceRange:
    """The range of exactly one address."""
    return SourceRange(address, _BITS[family_of(address)])


class SourceRangeTable:
    """What the map `source_ranges` should hold, by service id."""

    def __init__(self, layouts: Layouts, capacity: int) -> None:
        self._layouts = layouts
        self._capacity = capacity
        self._ranges: dict[int, tuple[SourceRange, ...]] = {}
        self._used = 0

    @property
    def room(self) -> int:
        return self._capacity - self._used

    def require(self, number: int) -> None:
        """Raise CapacityError unless so many more fit."""
        if number > self.room:
            raise CapacityError(MapName.SOURCE_RANGES, needed=number, free=max(self.room, 0))

    def set(self, service_id: int, ranges: tuple[SourceRange, ...], changes: Changes) -> None:
        """Let a service id have exactly these; () removes it."""
        old = self._ranges.get(service_id, ())
        if old == ranges:
            return
        self._used += len(ranges) - len(old)
        self._ranges.pop(service_id, None)
        if ranges:
            self._ranges[service_id] = ranges
        if added := sorted(set(ranges).difference(old)):
            keys = self._keys([(service_id, entry) for entry in added])
            changes.source_ranges.append((keys, np.ones(len(keys), np.uint32)))
        if gone := sorted(set(old).difference(ranges)):
            changes.source_ranges_gone.append(self._keys([(service_id, entry) for entry in gone]))

    def keys(self) -> Records:
        """struct source_range_key of every entry; each has the value 1."""
        return self._keys([(i, entry) for i, ranges in self._ranges.items() for entry in ranges])

    def _keys(self, entries: Sequence[tuple[int, SourceRange]]) -> Records:
        rendered = np.zeros(len(entries), self._layouts["source_range_key"])
        rendered["service_id"] = [service_id for service_id, _ in entries]
        rendered["prefix_length"] = [
            _SERVICE_ID_BITS + entry.prefix_length + _V4_OFFSET * (family_of(entry.address) == 4)
            for _, entry in entries
        ]
        raw = b"".join(entry.address for _, entry in entries)
        rendered["address"] = np.frombuffer(raw, self._layouts["address"])
        return rendered
