# SPDX-License-Identifier: Apache-2.0
"""What the tables hold, as arrays, and how much they can hold. Values only, no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Records = NDArray[Any]
"""An array of one struct of abi.h, or of a simple type."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Entries each table has room for, that is max_entries of its map.

    Index 0 of `backends` and id 0 of `services` are never used, so these two serve one
    entry less. `services` also sizes the array of service counters.
    """

    frontends: int
    addresses: int
    slots: int
    backends: int
    services: int
    source_ranges: int = 0  # 0: the packet layer is off


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every table at one moment. Hashes as parallel keys and values in no order.

    Arrays come whole: `slots[i]` is u4, `backends[id]` is struct backend. A reader must
    not write to any of them; the kernel's may be views of the mapped memory.
    """

    frontend_keys: Records  # struct frontend_key
    frontends: Records  # struct frontend
    address_keys: Records  # struct address
    addresses: Records  # u4, abi.AddressFlag
    slots: Records  # u4, backend id
    backends: Records  # struct backend
    service_ids: Records  # u4
    services: Records  # struct service_info
    source_range_keys: Records | None = None  # struct source_range_key; None: no such map
