# SPDX-License-Identifier: Apache-2.0
"""The order in which tables change, so that no reader ever meets half a Service.

What a lookup reads later must be there before what leads to it, and must go after it:

    frontend ──► slots ──► backend           written right to left, removed left to right

A kept backend that changes sets first gets both its old and new flags, and its final
ones when no frontend leads to the old set any more. After every single entry of a plan
each slot of each visible frontend leads to a live backend of the frontend's Service.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vipbee.abi import Layouts, MapName
from vipbee.core.snapshot import Records

Entries = tuple[Records, Records]
"""Keys and values, parallel."""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """Put (`values` given) or delete (`values` None) some entries of one map, in order.

    Keys of hashes have the key's dtype; keys of arrays are u4 indices.
    """

    map: MapName
    keys: Records
    values: Records | None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(slots=True, eq=False)
class Changes:
    """What is to change, collected in any order; each list holds pieces of one step."""

    new_services: list[Records] = field(default_factory=list)  # ids whose counters restart
    new_backends: list[Records] = field(default_factory=list)  # ids whose counters restart
    backends_first: list[Entries] = field(default_factory=list)  # new, or old and new flags
    slots: list[Entries] = field(default_factory=list)
    services: list[Entries] = field(default_factory=list)
    source_ranges: list[Entries] = field(default_factory=list)
    frontends: list[Entries] = field(default_factory=list)
    addresses: list[Entries] = field(default_factory=list)
    frontends_gone: list[Records] = field(default_factory=list)
    addresses_gone: list[Records] = field(default_factory=list)
    source_ranges_gone: list[Records] = field(default_factory=list)
    backends_last: list[Entries] = field(default_factory=list)  # final flags, or free
    services_gone: list[Records] = field(default_factory=list)

    def operations(self, layouts: Layouts) -> list[Op]:
        """Return the steps in their order; steps without entries are left out."""
        zeroed = [
            _zeros(MapName.SERVICE_COUNTERS, self.new_services, layouts["service_counters"]),
            _zeros(MapName.BACKEND_COUNTERS, self.new_backends, layouts["backend_counters"]),
        ]
        steps = [
            *zeroed,
            _put(MapName.BACKENDS, self.backends_first),
            _put(MapName.SLOTS, self.slots),
            _put(MapName.SERVICES, self.services),
            _put(MapName.SOURCE_RANGES, self.source_ranges),
            _put(MapName.FRONTENDS, self.frontends),
            _put(MapName.ADDRESSES, self.addresses),
            _delete(MapName.FRONTENDS, self.frontends_gone),
            _delete(MapName.ADDRESSES, self.addresses_gone),
            _delete(MapName.SOURCE_RANGES, self.source_ranges_gone),
            _put(MapName.BACKENDS, self.backends_last),
            _delete(MapName.SERVICES, self.services_gone),
        ]
        return [step for step in steps if step is not None]

    def repairs(self, layouts: Layouts) -> list[Op]:
        """Return the steps of an audit: what is nobody's goes first, it may fill a map."""
        gone = Changes(
            frontends_gone=self.frontends_gone,
            addresses_gone=self.addresses_gone,
            source_ranges_gone=self.source_ranges_gone,
            services_gone=self.services_gone,
        )
        rest = Changes(
            backends_first=self.backends_first,
            slots=self.slots,
            services=self.services,
            source_ranges=self.source_ranges,
            frontends=self.frontends,
            addresses=self.addresses,
            backends_last=self.backends_last,
        )
        return gone.operations(layouts) + rest.operations(layouts)


def _put(map_name: MapName, pieces: list[Entries]) -> Op | None:
    keys = _joined([piece[0] for piece in pieces])
    values = _joined([piece[1] for piece in pieces])
    return None if keys is None else Op(map_name, keys, values)


def _delete(map_name: MapName, pieces: list[Records]) -> Op | None:
    keys = _joined(pieces)
    return None if keys is None else Op(map_name, keys, None)


def _zeros(map_name: MapName, pieces: list[Records], layout: np.dtype) -> Op | None:
    ids = _joined(pieces)
    return None if ids is None else Op(map_name, ids, np.zeros(len(ids), layout))


def _joined(pieces: list[Records]) -> Records | None:
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return None
    # without dtype, NumPy promotes struct members to native byte order and swaps them
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, dtype=pieces[0].dtype)
