# SPDX-License-Identifier: Apache-2.0
"""Everything the tables say at one moment, read through a narrow protocol.

`datapath.kernel.KernelTables` is a `Reader`; this package does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from vipbee.abi import MapName, Reason
from vipbee.core.snapshot import Records, Snapshot


class HashReader(Protocol):
    """Open tables of which only hashes are read."""

    def read_hash(self, name: MapName) -> tuple[Records, Records]:
        """Every entry as parallel keys and values."""


class Reader(HashReader, Protocol):
    """Open tables, to be read only."""

    def snapshot(self) -> Snapshot: ...

    def read_array(self, name: MapName) -> Records:
        """Every value, by index."""

    def read_reasons(self) -> Records:
        """u8 by `abi.Reason`, summed over CPUs."""

    def max_entries(self, name: MapName) -> int: ...

    def has(self, name: MapName) -> bool:
        """Whether this map is there; those of the packet layer need not be."""

    def count_entries(self, name: MapName) -> int:
        """Entries of a hash."""


@dataclass(frozen=True, slots=True)
class Readings:
    """The tables and the counters that go with them, by id."""

    snapshot: Snapshot
    service_counters: Records  # struct service_counters, by service id
    backend_counters: Records  # struct backend_counters, by backend id


def read(reader: Reader) -> Readings:
    """Read tables and counters; not atomic, so a counter may be newer than its table."""
    return Readings(
        snapshot=reader.snapshot(),
        service_counters=reader.read_array(MapName.SERVICE_COUNTERS),
        backend_counters=reader.read_array(MapName.BACKEND_COUNTERS),
    )


def active(counters: Records) -> Records:
    """Open connections; never negative, although the two counters are read apart."""
    opened = counters["opened"].astype(np.int64)
    return np.maximum(opened - counters["closed"].astype(np.int64), 0)


def text(field: object) -> str:
    """A char[] member as text; a name cut in the middle of a character stays readable."""
    assert isinstance(field, bytes)
    return field.decode(errors="replace")


class MapUsage(NamedTuple):
    """How full one map is. `capacity` is what fits, without ids that are never used."""

    name: str
    entries: int
    capacity: int

    @property
    def pressure(self) -> float:
        """0.0 empty, 1.0 full."""
        return self.entries / self.capacity if self.capacity else 1.0


_STATE_MAPS = (
    MapName.UDP_FLOWS,
    MapName.AFFINITY,
    MapName.SOURCE_RANGES,
    MapName.CONNTRACK_OUTSIDE,
    MapName.CONNTRACK_NEW_OUTSIDE,
    MapName.NAT_OUTSIDE,
    MapName.NAT_NEW_OUTSIDE,
    MapName.CONNTRACK_POD,
    MapName.CONNTRACK_NEW_POD,
    MapName.NAT_POD,
    MapName.NAT_NEW_POD,
)


def map_usage(reader: Reader, snapshot: Snapshot) -> list[MapUsage]:
    """Use of every map that can fill up, tables first.

    Slots in quarantine are not counted: they become free by themselves within seconds.
    """
    counted = {
        MapName.FRONTENDS: (len(snapshot.frontend_keys), reader.max_entries(MapName.FRONTENDS)),
        MapName.ADDRESSES: (len(snapshot.address_keys), reader.max_entries(MapName.ADDRESSES)),
        MapName.SLOTS: (_slots_used(snapshot), reader.max_entries(MapName.SLOTS)),
        # index 0 of these two is never used
        MapName.BACKENDS: (
            int(np.count_nonzero(snapshot.backends["flags"])),
            reader.max_entries(MapName.BACKENDS) - 1,
        ),
        MapName.SERVICES: (
            len(snapshot.service_ids),
            min(
                reader.max_entries(MapName.SERVICES),
                reader.max_entries(MapName.SERVICE_COUNTERS) - 1,
            ),
        ),
    }
    for name in filter(reader.has, _STATE_MAPS):
        counted[name] = (reader.count_entries(name), reader.max_entries(name))
    return [MapUsage(name, *numbers) for name, numbers in counted.items()]


def _slots_used(snapshot: Snapshot) -> int:
    """Slots in at least one run: frontends share runs, and a local run may lie in a cluster's."""
    runs = np.concatenate([snapshot.frontends["cluster"], snapshot.frontends["local"]])
    size = len(snapshot.slots)
    starts = np.minimum(runs["first"].astype(np.int64), size)
    ends = np.minimum(starts + runs["count"], size)
    depth = np.bincount(starts, minlength=size + 1) - np.bincount(ends, minlength=size + 1)
    return int(np.count_nonzero(np.cumsum(depth)))


def reasons(reader: Reader) -> Mapping[str, int]:
    """Why connections were not translated or refused, by name in lower case."""
    totals = reader.read_reasons()
    return {reason.name.lower(): int(totals[reason]) for reason in Reason if reason < len(totals)}
