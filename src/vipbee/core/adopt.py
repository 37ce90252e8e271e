# SPDX-License-Identifier: Apache-2.0
"""Recognise in the tables what an earlier process programmed, so that ids stay.

The tables may come from a process killed in the middle of a plan, or may have been
written to by somebody else. Only what is consistent is recognised:

* a Service port, if `services` names it;
* a backend, if its Service port is recognised and nobody else has its address and port;
* a run, if all its slots lead to backends of the Service port;
* a frontend, if it leads to such a run (the run of the Service port's first frontend:
  after a crash some frontends may still lead to the old one).

Everything else that a reader may meet rests, as if it had just been given up: nothing is
put there before the frontends that lead to it have been corrected. But a range with more slots
than its Service port has backends is damage, not a run: were it to rest, one flipped byte could
leave no room for anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vipbee.abi import FrontendFlag, FrontendKind, Layouts
from vipbee.core.frontends import NODE_FLAGS, FrontendTable, raw_list
from vipbee.core.ledger import Ledger, Programmed
from vipbee.core.render import EMPTY, SlotRange
from vipbee.core.snapshot import Capacity, Records, Snapshot
from vipbee.model import Backend, Frontend, FrontendKey, ServicePort, ServicePortKey

_PROTOCOLS = (6, 17)


@dataclass(slots=True, eq=False)
class Adopted:
    """What was recognised. Masks are over all ids or slots."""

    programmed: dict[ServicePortKey, Programmed]
    frontends: dict[FrontendKey, bytes]
    node_addresses: dict[bytes, int]
    foreign_frontends: int
    foreign_addresses: int
    seen_services: Records  # ids that occur anywhere
    seen_slots: Records
    strays: Records  # ids of live backends that were not recognised
    snapshot: Snapshot

    def fill(self, ledger: Ledger, table: FrontendTable) -> None:
        """Make this the state of a ledger and a table."""
        records = self.programmed.values()
        ledger.programmed = dict(self.programmed)
        # used rows only: writing zeros over untouched zeros would make them take memory
        in_use = np.flatnonzero(self.snapshot.slots)
        ledger.slots[in_use] = self.snapshot.slots[in_use]
        backends = self.snapshot.backends
        in_use = np.flatnonzero(backends["flags"] | (backends["generation"] != 0))
        ledger.backends[in_use] = backends[in_use]
        generations = ledger.backends["generation"][self.strays] + 1
        ledger.backends[self.strays] = np.zeros((), ledger.backends.dtype)
        ledger.backends["generation"][self.strays] = generations
        used = np.array([record.service_id for record in records], np.int64)
        rows = {service_id: at for at, service_id in enumerate(self.snapshot.service_ids.tolist())}
        ledger.services[used] = self.snapshot.services[[rows[at] for at in used.tolist()]]
        ledger.service_ids.adopt(used, np.flatnonzero(self.seen_services))
        ids = [record.backend_ids for record in records]
        ledger.backend_ids.adopt(np.concatenate([np.zeros(0, np.uint32), *ids]), self.strays)
        in_runs = np.zeros(len(ledger.slots), bool)
        for record in records:
            in_runs[record.run.first : sum(record.run)] = True
        ledger.runs.adopt(in_runs, self.seen_slots)
        table.adopt(self.frontends, self.node_addresses)
        table.foreign_frontends = self.foreign_frontends
        table.foreign_addresses = self.foreign_addresses


def read_tables(snapshot: Snapshot, layouts: Layouts, capacity: Capacity) -> Adopted:
    """Recognise what makes sense in the tables; raise ValueError if their size is another."""
    if (len(snapshot.slots), len(snapshot.backends)) != (capacity.slots, capacity.backends):
        raise ValueError("the snapshot is of tables of another size")
    keys = _service_keys(snapshot, capacity)
    owner, strays = _backend_owners(snapshot, keys, capacity)
    backends = _backends_of(snapshot, owner)
    values = snapshot.frontends
    spans = _spans(snapshot, capacity)
    chosen = _choose(snapshot, spans, owner, keys)

    programmed = {
        key: _programmed(key, service_id, backends.get(service_id), spans, chosen, snapshot)
        for service_id, key in keys.items()
    }
    frontends, owned = _frontends_of(snapshot, chosen)
    for service_id, key in keys.items():
        programmed[key].owned = tuple(owned.get(service_id, ()))
    known_addresses = {key.address for key in frontends}
    addresses = dict(zip(raw_list(snapshot.address_keys), snapshot.addresses.tolist(), strict=True))
    node = {a: f & NODE_FLAGS for a, f in addresses.items() if f & NODE_FLAGS}
    seen_services = np.zeros(capacity.services, bool)
    for column in (snapshot.service_ids, values["service_id"], snapshot.backends["service_id"]):
        seen_services[column[column < capacity.services]] = True
    return Adopted(
        programmed=programmed,
        frontends=frontends,
        node_addresses=node,
        foreign_frontends=len(values) - len(frontends),
        foreign_addresses=len(addresses.keys() - known_addresses - node.keys()),
        seen_services=seen_services,
        seen_slots=_seen_slots(spans, capacity.slots),
        strays=strays,
        snapshot=snapshot,
    )


def _service_keys(snapshot: Snapshot, capacity: Capacity) -> dict[int, ServicePortKey]:
    """Service id → Service port. Of two ids for one, a frontend's wins, then the lower."""
    led_to = set(snapshot.frontends["service_id"].tolist())
    infos = snapshot.services
    rows = zip(
        snapshot.service_ids.tolist(),
        infos["namespace_"].tolist(),
        infos["name"].tolist(),
        infos["port_name"].tolist(),
        infos["protocol"].tolist(),
        infos["family"].tolist(),
        strict=True,
    )
    found: dict[ServicePortKey, int] = {}
    for service_id, *names, protocol, family in sorted(rows, key=lambda row: row[0]):
        if not 1 <= service_id < capacity.services:
            continue
        if protocol not in _PROTOCOLS or family not in (4, 6):
            continue
        namespace, name, port_name = (text.decode(errors="replace") for text in names)
        key = ServicePortKey(namespace, name, port_name, protocol, family)
        if key not in found or (service_id in led_to and found[key] not in led_to):
            found[key] = service_id
    return {service_id: key for key, service_id in found.items()}


def _backend_owners(
    snapshot: Snapshot, keys: Mapping[int, ServicePortKey], capacity: Capacity
) -> tuple[Records, Records]:
    """Return (service id by backend id, 0 if not recognised; live ids not recognised)."""
    backends = snapshot.backends
    live = np.flatnonzero(backends["flags"])
    protocol_of = np.zeros(capacity.services, np.uint8)
    for service_id, key in keys.items():
        protocol_of[service_id] = key.protocol
    service_ids = backends["service_id"][live].astype(np.int64)
    service_ids[service_ids >= capacity.services] = 0
    good = (protocol_of[service_ids] == backends["protocol"][live]) & (service_ids > 0) & (live > 0)
    owner = np.zeros(len(backends), np.int64)
    owner[live[good]] = service_ids[good]
    order = _by_place(snapshot, owner)
    places = _places(snapshot, owner, order)
    doubles = order[1:][(places[1:] == places[:-1]).all(axis=1)] if len(order) else order
    owner[doubles] = 0
    return owner, live[owner[live] == 0]


def _places(snapshot: Snapshot, owner: Records, ids: Records) -> Records:
    """(service id, address high, address low, port) of each backend id, comparable."""
    backends = snapshot.backends[ids]
    words = np.ascontiguousarray(backends["address"]["word"]).astype(np.uint64)
    columns = (
        owner[ids].astype(np.uint64),
        words[:, 0] << np.uint64(32) | words[:, 1],
        words[:, 2] << np.uint64(32) | words[:, 3],
        backends["port"].astype(np.uint64),
    )
    return np.stack(columns, axis=1)


def _by_place(snapshot: Snapshot, owner: Records) -> Records:
    """Recognised backend ids in the order of (service id, address, port, id)."""
    ids = np.flatnonzero(owner)
    places = _places(snapshot, owner, ids)
    return np.asarray(ids[np.lexsort(places.T[::-1])])


def _backends_of(
    snapshot: Snapshot, owner: Records
) -> dict[int, tuple[Records, tuple[Backend, ...]]]:
    """Service id → (backend ids, backends), sorted as in a ServicePort."""
    ids = _by_place(snapshot, owner)
    if not len(ids):
        return {}
    rows = snapshot.backends[ids]
    backends = [
        Backend(*row)
        for row in zip(
            raw_list(np.ascontiguousarray(rows["address"])),
            rows["port"].tolist(),
            rows["flags"].tolist(),
            strict=True,
        )
    ]
    owners = owner[ids]
    starts = np.flatnonzero(np.diff(owners, prepend=0)).tolist()
    ends = [*starts[1:], len(ids)]
    return {
        int(owners[start]): (ids[start:end].astype(np.uint32), tuple(backends[start:end]))
        for start, end in zip(starts, ends, strict=True)
    }


def _spans(snapshot: Snapshot, capacity: Capacity) -> Records:
    """Rows (first, end) of all slots a frontend leads to; (0, -1) if they make no sense."""
    values = snapshot.frontends
    spans = np.zeros((len(values), 2), np.int64)
    cluster, local = values["cluster"], values["local"]
    cluster_first, local_first = cluster["first"].astype(np.int64), local["first"].astype(np.int64)
    cluster_end, local_end = cluster_first + cluster["count"], local_first + local["count"]
    has_cluster, has_local = cluster["count"] > 0, local["count"] > 0
    both = has_cluster & has_local
    spans[has_cluster] = np.stack([cluster_first, cluster_end], axis=1)[has_cluster]
    spans[has_local] = np.stack([local_first, local_end], axis=1)[has_local]
    spans[both, 0] = np.minimum(cluster_first, local_first)[both]
    spans[both, 1] = np.maximum(cluster_end, local_end)[both]
    apart = both & ((cluster_first > local_end) | (local_first > cluster_end))
    # a backend has one slot at most, which also bounds the work that garbage can cause
    backends = snapshot.backends
    named = backends["service_id"][backends["flags"] != 0].astype(np.int64)
    room = np.bincount(named[named < capacity.services], minlength=capacity.services + 1)
    owned = room[np.minimum(values["service_id"], capacity.services)]
    too_long = spans[:, 1] - spans[:, 0] > owned
    spans[apart | too_long | (spans[:, 1] > capacity.slots)] = (0, -1)
    return spans


def _choose(
    snapshot: Snapshot, spans: Records, owner: Records, keys: Mapping[int, ServicePortKey]
) -> dict[int, int]:
    """Service id → index of the frontend whose run is the Service port's."""
    values = snapshot.frontends
    first_of: dict[int, int] = {}
    sane = (spans[:, 1] >= 0).tolist()
    for at, service_id in enumerate(values["service_id"].tolist()):
        if service_id in keys and sane[at]:
            first_of.setdefault(service_id, at)
    indices = np.array(list(first_of.values()), np.int64)
    lengths = (spans[indices, 1] - spans[indices, 0]) if len(indices) else indices
    port_of = np.repeat(np.arange(len(indices)), lengths)
    offsets = np.arange(len(port_of)) - (np.cumsum(lengths) - lengths)[port_of]
    ids = snapshot.slots[spans[indices, 0][port_of] + offsets]
    led = np.where(ids < len(owner), owner[np.minimum(ids, len(owner) - 1)], 0)
    wanted = np.array(list(first_of), np.int64)
    bad = set(port_of[led != wanted[port_of]].tolist())
    return {
        service_id: at for row, (service_id, at) in enumerate(first_of.items()) if row not in bad
    }


def _programmed(
    key: ServicePortKey,
    service_id: int,
    backends: tuple[Records, tuple[Backend, ...]] | None,
    spans: Records,
    chosen: Mapping[int, int],
    snapshot: Snapshot,
) -> Programmed:
    ids, rows = backends or (np.zeros(0, np.uint32), ())
    run = cluster = local = EMPTY
    at = chosen.get(service_id)
    if at is not None:
        first, end = spans[at].tolist()
        run = SlotRange(first, end - first) if end > first else EMPTY
        value = snapshot.frontends[at]
        cluster = SlotRange(*value["cluster"].item())
        local = SlotRange(*value["local"].item())
    # type, port and age are not known until an update brings them
    port = ServicePort(key, "", 0, "", (), rows, 0, len(rows))
    return Programmed(port, service_id, ids, run, cluster, local)


def _frontends_of(
    snapshot: Snapshot, chosen: Mapping[int, int]
) -> tuple[dict[FrontendKey, bytes], dict[int, list[Frontend]]]:
    """Return (key → value; service id → frontends) of those that lead to the chosen runs."""
    keys, values = snapshot.frontend_keys, snapshot.frontends
    ranges = list(zip(values["cluster"].tolist(), values["local"].tolist(), strict=True))
    rows = zip(
        raw_list(np.ascontiguousarray(keys["address"])),
        keys["port"].tolist(),
        keys["protocol"].tolist(),
        keys["pad"].tolist(),
        values["service_id"].tolist(),
        values["kind"].tolist(),
        values["flags"].tolist(),
        raw_list(values),
        ranges,
        strict=True,
    )
    kinds = {int(kind) for kind in FrontendKind}
    frontends: dict[FrontendKey, bytes] = {}
    owned: dict[int, list[Frontend]] = {}
    for address, port, protocol, pad, service_id, kind, flags, raw, run in rows:
        at = chosen.get(service_id)
        if at is None or ranges[at] != run or kind not in kinds or pad:
            continue
        key = FrontendKey(address, port, protocol)
        frontends[key] = raw
        is_local = bool(flags & FrontendFlag.POLICY_LOCAL)
        owned.setdefault(service_id, []).append(Frontend(key, kind, is_local))
    return frontends, owned


def _seen_slots(spans: Records, slots: int) -> Records:
    """Mask of slots that any frontend leads to."""
    depth = np.zeros(slots + 1, np.int64)
    sane = spans[spans[:, 1] >= 0]
    np.add.at(depth, sane[:, 0], 1)
    np.add.at(depth, sane[:, 1], -1)
    return np.asarray(np.cumsum(depth)[:slots] > 0)
