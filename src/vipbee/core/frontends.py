# SPDX-License-Identifier: Apache-2.0
"""What `frontends` and `addresses` should hold, and the changes that lead there.

The flags of an address follow from its frontends and from the node: a ClusterIP's
unknown ports are refused (R37), those of an external IP pass (R40), and a node's
address serves NodePorts (R89).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import numpy as np

from vipbee.abi import AddressFlag, FrontendKind, Layouts, MapName
from vipbee.core.plan import Changes
from vipbee.core.render import FrontendRow, address_keys, frontend_keys, frontends
from vipbee.core.snapshot import Capacity, Records
from vipbee.errors import CapacityError
from vipbee.model import Frontend, FrontendKey

# plain ints: arithmetic on enum members is ten times as slow, and this runs per frontend
_CLUSTER_IP = int(AddressFlag.CLUSTER_IP)
_EXTERNAL = int(AddressFlag.EXTERNAL)
_ROLES: dict[int, int] = {
    int(FrontendKind.CLUSTER_IP): _CLUSTER_IP,
    int(FrontendKind.NODE_PORT): 0,  # the unspecified address is nobody's
    int(FrontendKind.EXTERNAL_IP): _EXTERNAL,
    int(FrontendKind.LOAD_BALANCER): _EXTERNAL,
}
NODE_FLAGS = int(AddressFlag.NODE | AddressFlag.HOST_ONLY | AddressFlag.OWN | AddressFlag.SNAT)


class FrontendTable:
    """The two hashes a lookup starts with."""

    def __init__(self, layouts: Layouts, capacity: Capacity) -> None:
        self._layouts = layouts
        self._capacity = capacity
        self.values: dict[FrontendKey, bytes] = {}
        """Key → struct frontend."""
        self.flags: dict[bytes, int] = {}
        """Address → AddressFlag."""
        self._node: dict[bytes, int] = {}
        self._uses: Counter[tuple[bytes, int]] = Counter()  # (address, role) → frontends
        self._reserved: set[FrontendKey] = set()
        self._reserved_addresses: set[bytes] = set()
        self._offset = layouts["frontend"].fields["kind"][1]  # type: ignore[index]
        self.foreign_frontends = 0
        """Entries of nobody that fill the map until an audit removes them."""
        self.foreign_addresses = 0

    @contextmanager
    def reserve(self, claimed: Iterable[Iterable[Frontend]]) -> Iterator[None]:
        """Keep room until `write`; raise CapacityError if there is none.

        Given back if the body raises. Counts every frontend claimed: one that is lost to
        another Service is in the table anyway.
        """
        frontends = list(chain.from_iterable(claimed))
        keys = {f.key for f in frontends if f.key not in self.values} - self._reserved
        _require(MapName.FRONTENDS, len(keys), self.room(MapName.FRONTENDS))
        used = {f.key.address for f in frontends if _ROLES[f.kind]}
        # not `used - self.flags.keys()`: that walks the whole table
        addresses = {a for a in used if a not in self.flags} - self._reserved_addresses
        _require(MapName.ADDRESSES, len(addresses), self.room(MapName.ADDRESSES))
        self._reserved |= keys
        self._reserved_addresses |= addresses
        try:
            yield
        except CapacityError:
            self._reserved -= keys
            self._reserved_addresses -= addresses
            raise

    def room(self, map_name: MapName) -> int:
        """Entries of one of the two maps that are free now."""
        if map_name is MapName.ADDRESSES:
            taken = len(self.flags) + len(self._reserved_addresses) + self.foreign_addresses
            return self._capacity.addresses - taken
        taken = len(self.values) + len(self._reserved) + self.foreign_frontends
        return self._capacity.frontends - taken

    def service_id(self, key: FrontendKey) -> int:
        """Return the service id that a key leads to; 0 if there is no such frontend."""
        raw = self.values.get(key)
        if raw is None:
            return 0
        return int(np.frombuffer(raw, self._layouts["frontend"])["service_id"][0])

    def write(
        self, puts: Mapping[FrontendKey, FrontendRow], gone: set[FrontendKey], changes: Changes
    ) -> None:
        """Put and remove frontends, with the addresses that follow; forget reservations."""
        touched: set[bytes] = set()
        self._put(puts, touched, changes)
        for key in gone:
            self._count(key, self.values.pop(key)[self._offset], -1, touched)
        if gone:
            changes.frontends_gone.append(frontend_keys(self._layouts, sorted(gone)))
        self._reserved = set()
        self._reserved_addresses = set()
        self._settle(touched, changes)

    def set_node_addresses(self, flags: Mapping[bytes, int], changes: Changes) -> None:
        """Replace the node's addresses; raise CapacityError and change nothing if they do not fit.

        Old and new ones are in the map together for a moment.
        """
        new = len(flags.keys() - self.flags.keys())
        _require(MapName.ADDRESSES, new, self.room(MapName.ADDRESSES))
        touched = {
            address
            for address in flags.keys() | self._node.keys()
            if flags.get(address) != self._node.get(address)
        }
        self._node = dict(flags)
        self._settle(touched, changes)

    def adopt(self, values: Mapping[FrontendKey, bytes], node: Mapping[bytes, int]) -> None:
        """Start again from what is in the maps."""
        self.values = dict(values)
        self._node = dict(node)
        self._uses = Counter()
        self.flags = {}
        touched: set[bytes] = set(node)
        for key, value in values.items():
            self._count(key, value[self._offset], 1, touched)
        self._settle(touched, Changes())

    def _put(
        self, puts: Mapping[FrontendKey, FrontendRow], touched: set[bytes], changes: Changes
    ) -> None:
        keys = list(puts)
        values = frontends(self._layouts, list(puts.values()))
        changed = []
        for at, raw in enumerate(raw_list(values)):
            key = keys[at]
            old = self.values.get(key)
            if old == raw:
                continue
            if old is None:
                self._count(key, raw[self._offset], 1, touched)
            elif old[self._offset] != raw[self._offset]:
                self._count(key, old[self._offset], -1, touched)
                self._count(key, raw[self._offset], 1, touched)
            self.values[key] = raw
            changed.append(at)
        if changed:
            rendered = frontend_keys(self._layouts, [keys[at] for at in changed])
            changes.frontends.append((rendered, values[changed]))

    def _count(self, key: FrontendKey, kind: int, by: int, touched: set[bytes]) -> None:
        role = _ROLES[kind]
        if role:
            self._uses[key.address, role] += by
            if not self._uses[key.address, role]:
                del self._uses[key.address, role]
            touched.add(key.address)

    def _settle(self, touched: Iterable[bytes], changes: Changes) -> None:
        """Bring the flags of these addresses up to date."""
        put: list[bytes] = []
        gone: list[bytes] = []
        for address in touched:
            flags = self._node.get(address, 0)
            if (address, _CLUSTER_IP) in self._uses:
                flags |= _CLUSTER_IP
            if (address, _EXTERNAL) in self._uses:
                flags |= _EXTERNAL
            if flags == self.flags.get(address, 0):
                continue
            if flags:
                self.flags[address] = flags
                put.append(address)
            else:
                del self.flags[address]
                gone.append(address)
        if put:
            flags_put = np.array([self.flags[address] for address in put], np.uint32)
            changes.addresses.append((address_keys(self._layouts, put), flags_put))
        if gone:
            changes.addresses_gone.append(address_keys(self._layouts, gone))


def raw_list(values: Records) -> list[bytes]:
    """Return the bytes of each element."""
    raw: list[bytes] = values.view(np.dtype((np.void, values.dtype.itemsize))).tolist()
    return raw


def _require(map_name: MapName, needed: int, free: int) -> None:
    if needed > free:
        raise CapacityError(map_name, needed=needed, free=max(free, 0))
