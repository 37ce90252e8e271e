# SPDX-License-Identifier: Apache-2.0
"""Who gets which id and which run of slots.

A reader in the kernel may hold an id or a range it looked up a moment ago. So what is
given back rests until `reclaim` was called twice after it; the caller spaces these
calls so that no program run lasts that long. No clock here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from itertools import islice

import numpy as np

from vipbee.abi import MapName
from vipbee.core.snapshot import Records
from vipbee.errors import CapacityError


class IdPool:
    """Ids 1..size-1, the longest unused first, so that an old id is met as late as possible."""

    def __init__(self, map_name: MapName, size: int) -> None:
        self._map_name = map_name
        self._size = size
        self._next = 1  # every id from here up was never given out
        self._free: deque[int] = deque()
        self._resting: list[int] = []
        self._released: list[int] = []

    @property
    def free(self) -> int:
        """Ids that `take` can give out now."""
        return max(self._size - self._next, 0) + len(self._free)

    def take(self, count: int) -> Records:
        """Return `count` ids as u4; raise CapacityError and change nothing if there are fewer."""
        self.require(count)
        fresh = min(count, max(self._size - self._next, 0))
        ids = np.empty(count, np.uint32)
        ids[:fresh] = np.arange(self._next, self._next + fresh, dtype=np.uint32)
        if fresh < count:
            ids[fresh:] = list(islice(self._free, count - fresh))
            for _ in range(count - fresh):
                self._free.popleft()
        self._next += fresh
        return ids

    def require(self, count: int) -> None:
        """Raise CapacityError unless `take(count)` would succeed."""
        if count > self.free:
            raise CapacityError(self._map_name, needed=count, free=self.free)

    def release(self, ids: Iterable[int]) -> None:
        self._released.extend(ids)

    def reclaim(self) -> int:
        """Let what rested long enough be used again; return how many ids that were."""
        ready = self._resting
        self._free.extend(ready)
        self._resting, self._released = self._released, []
        return len(ready)

    def adopt(self, used: Records, resting: Records) -> None:
        """Start again with exactly these ids taken; `resting` ones count as just released."""
        taken = np.zeros(self._size, bool)
        taken[used] = True
        taken[resting] = True
        taken[:1] = True
        self._next = int(np.flatnonzero(taken)[-1]) + 1 if self._size else 1
        self._free = deque(np.flatnonzero(~taken[: self._next]).tolist())
        self._released = np.setdiff1d(resting, used).tolist()
        self._resting = []


class RunPool:
    """Contiguous runs out of `size` slots: best fit, neighbours merged when they come free.

    Free runs are known by both ends (merging looks up neighbours) and by length. There
    are at most √(2·size) different lengths of free runs at a time, 1,448 for a million
    slots, so a sorted list of lengths is as good as a tree.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._clear()

    def _clear(self) -> None:
        self._length_at: dict[int, int] = {}  # first slot of a free run → its length
        self._first_before: dict[int, int] = {}  # slot after a free run → its first slot
        self._by_length: dict[int, dict[int, None]] = {}  # insertion-ordered set of first slots
        self._lengths: list[int] = []
        self._resting: list[tuple[int, int]] = []
        self._released: list[tuple[int, int]] = []
        self.free = 0
        """Slots free now, not necessarily next to each other."""
        if self._size:
            self._add(0, self._size)

    @property
    def largest(self) -> int:
        """The longest run that `take` can give out now."""
        return self._lengths[-1] if self._lengths else 0

    def take(self, length: int) -> int:
        """Return the first slot of a run; raise CapacityError and change nothing if none fits.

        Length 0 is always 0.
        """
        if length == 0:
            return 0
        at = bisect_left(self._lengths, length)
        if at == len(self._lengths):
            raise CapacityError(MapName.SLOTS, needed=length, free=self.largest)
        found = self._lengths[at]
        first = next(iter(self._by_length[found]))
        self._remove(first, found)
        if found > length:
            self._add(first + length, found - length)
        return first

    def release(self, first: int, length: int) -> None:
        if length:
            self._released.append((first, length))

    def reclaim(self) -> int:
        """Let what rested long enough be used again; return how many runs that were."""
        ready = self._resting
        for first, length in ready:
            self._give(first, length)
        self._resting, self._released = self._released, []
        return len(ready)

    def adopt(self, used: Records, resting: Records) -> None:
        """Start again; `used` and `resting` are masks over all slots, `resting` just released."""
        self._clear()
        self._remove(0, self._size)
        for first, end in _runs_of(~(used | resting)):
            self._add(first, end - first)
        self._released = [(first, end - first) for first, end in _runs_of(resting & ~used)]

    def _give(self, first: int, length: int) -> None:
        before = self._first_before.get(first)
        if before is not None:
            self._remove(before, first - before)
            first, length = before, first + length - before
        behind = self._length_at.get(first + length)
        if behind is not None:
            self._remove(first + length, behind)
            length += behind
        self._add(first, length)

    def _add(self, first: int, length: int) -> None:
        self._length_at[first] = length
        self._first_before[first + length] = first
        same = self._by_length.get(length)
        if same is None:
            same = self._by_length[length] = {}
            insort(self._lengths, length)
        same[first] = None
        self.free += length

    def _remove(self, first: int, length: int) -> None:
        if length == 0:
            return
        del self._length_at[first]
        del self._first_before[first + length]
        same = self._by_length[length]
        del same[first]
        if not same:
            del self._by_length[length]
            del self._lengths[bisect_left(self._lengths, length)]
        self.free -= length


def _runs_of(mask: Records) -> list[tuple[int, int]]:
    """(first, end) of each run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
