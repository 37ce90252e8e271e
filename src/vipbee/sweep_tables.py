# SPDX-License-Identifier: Apache-2.0
"""The sweep where the kernel has no iterators over map elements: the tables are read here.

Decides as bpf/sweep.bpf.c does, but counts no connection as closed: only the kernel can add to
a counter that packets add to. In steps of some ten milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vipbee.abi import AddressFlag, ConntrackFlag, MapName
from vipbee.core.connection_age import ages_s, remaining_s, reply_tuples
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.plan import Op
from vipbee.core.snapshot import Records
from vipbee.datapath.kernel import KernelTables

STEP_ENTRIES = 8192
_UDP = 17

# (established connections, their reverse halves; unfinished ones, theirs)
_ZONES = (
    (
        MapName.CONNTRACK_OUTSIDE,
        MapName.NAT_OUTSIDE,
        MapName.CONNTRACK_NEW_OUTSIDE,
        MapName.NAT_NEW_OUTSIDE,
    ),
    (
        MapName.CONNTRACK_POD,
        MapName.NAT_POD,
        MapName.CONNTRACK_NEW_POD,
        MapName.NAT_NEW_POD,
    ),
)


@dataclass(slots=True)
class Swept:
    """What one sweep met, in the kernel or here."""

    seen: int = 0  # connections
    connections: int = 0  # removed
    reverse_halves: int = 0  # removed
    pressure: float = 0.0  # of the fuller zone, after it


class TableSweep:
    """Sweeps both zones. `clock` gives whole seconds of CLOCK_MONOTONIC."""

    def __init__(
        self,
        tables: KernelTables,
        lifetimes: Lifetimes,
        clock: Callable[[], int] = lambda: int(time.clock_gettime(time.CLOCK_MONOTONIC)),
    ) -> None:
        self._tables = tables
        self._lifetimes = lifetimes
        self._clock = clock

    def steps(self, swept: Swept, *, unfinished: bool = False) -> Iterator[None]:
        """One sweep, a step at each `next`; counts into `swept`.

        `unfinished`: look at connections that are not established as well, which go only with
        their address.
        """
        for conntrack, nat, new_conntrack, new_nat in _ZONES:
            if not self._tables.has(conntrack):
                continue
            if unfinished:
                yield from self._connections(new_conntrack, new_nat, Swept())
            seen = swept.seen - swept.connections
            yield from self._connections(conntrack, nat, swept)
            left = swept.seen - swept.connections - seen
            swept.pressure = max(swept.pressure, left / self._tables.max_entries(conntrack))
            yield from self._orphans(conntrack, nat, new_conntrack, swept)

    def _connections(self, conntrack: MapName, nat: MapName, swept: Swept) -> Iterator[None]:
        for keys, values in self._tables.walk_hash(conntrack, STEP_ENTRIES):
            swept.seen += len(keys)
            remaining = remaining_s(keys["protocol"], values, self._clock(), self._lifetimes)
            over = np.flatnonzero((remaining < 0) | self._have_lost_their_source(values))
            if len(over):
                self._tables.apply(Op(conntrack, keys[over], None))
                swept.connections += len(over)
                replies = reply_tuples(keys[over], values[over])
                # the tuple may be another connection's by now
                halves, present = self._tables.read_entries(nat, replies)
                mine = present & (_rows(halves["original"]) == _rows(keys[over]))
                self._tables.apply(Op(nat, replies[mine], None))
                swept.reverse_halves += int(np.count_nonzero(mine))
            yield

    def _have_lost_their_source(self, values: Records) -> Records:
        """Of each connection: do its replies come to an address the node gave up (D113)?"""
        redirected = values["flags"] & ConntrackFlag.REDIRECT != 0
        lost = np.zeros(len(values), bool)
        if redirected.any():
            sources = np.ascontiguousarray(values["source"][redirected])
            # addresses of the node: a handful
            _, first, which = np.unique(_rows(sources), return_index=True, return_inverse=True)
            flags, _ = self._tables.read_entries(MapName.ADDRESSES, sources[first])
            lost[redirected] = (flags & AddressFlag.SNAT == 0)[which]
        return lost

    def _orphans(
        self, conntrack: MapName, nat: MapName, unfinished: MapName, swept: Swept
    ) -> Iterator[None]:
        """Reverse halves whose connection is gone although it never was too old here."""
        for keys, values in self._tables.walk_hash(nat, STEP_ENTRIES):
            ages = ages_s(values, self._clock())
            limits = np.where(
                keys["protocol"] == _UDP, self._lifetimes.udp_s, self._lifetimes.established_s
            )
            old = np.flatnonzero(ages > limits)
            if len(old):
                originals = np.ascontiguousarray(values["original"][old])
                _, is_there = self._tables.read_entries(conntrack, originals)
                _, is_new = self._tables.read_entries(unfinished, originals)
                gone = old[~(is_there | is_new)]
                self._tables.apply(Op(nat, keys[gone], None))
                swept.reverse_halves += len(gone)
            yield


def _rows(records: Records) -> Records:
    """Each record as opaque bytes, to compare whole ones."""
    packed = np.ascontiguousarray(records)
    return packed.view(np.dtype((np.void, packed.dtype.itemsize)))
