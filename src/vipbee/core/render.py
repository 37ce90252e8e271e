# SPDX-License-Identifier: Apache-2.0
"""From values of the model to keys and values of the tables, many at a time. Pure.

Columns are built with one pass each and no Python code per field: at 100,000 Services
with 10 backends each, a function call per backend alone would cost a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from vipbee.abi import BackendFlag, FrontendFlag, Layouts
from vipbee.core.snapshot import Records
from vipbee.model import FrontendKey, ServicePort


class SlotRange(NamedTuple):
    """struct slot_range; an empty range is always (0, 0)."""

    first: int
    length: int


class FrontendRow(NamedTuple):
    """What one frontend's value is made of."""

    service_id: int
    affinity_timeout_s: int
    cluster: SlotRange
    local: SlotRange
    policy_local: bool
    kind: int
    has_source_ranges: bool = False


def address_keys(layouts: Layouts, addresses: Iterable[bytes]) -> Records:
    """Return struct address for each 16 bytes."""
    return np.frombuffer(b"".join(addresses), layouts["address"])


def frontend_keys(layouts: Layouts, keys: Sequence[FrontendKey]) -> Records:
    """Return struct frontend_key for each key."""
    rendered = np.zeros(len(keys), layouts["frontend_key"])
    rendered["address"] = address_keys(layouts, [key.address for key in keys])
    rendered["port"] = [key.port for key in keys]
    rendered["protocol"] = [key.protocol for key in keys]
    return rendered


def frontends(layouts: Layouts, rows: Sequence[FrontendRow]) -> Records:
    """Return struct frontend for each row."""
    columns = np.array(
        [
            (
                *(row[0], row[1], *row[2], *row[3]),
                row[4] * _POLICY_LOCAL + row[6] * _SOURCE_RANGES,
                row[5],
            )
            for row in rows
        ],
        np.int64,
    ).reshape(-1, 8)
    rendered = np.zeros(len(rows), layouts["frontend"])
    rendered["service_id"] = columns[:, 0]
    rendered["affinity_timeout_s"] = columns[:, 1]
    rendered["cluster"]["first"] = columns[:, 2]
    rendered["cluster"]["count"] = columns[:, 3]
    rendered["local"]["first"] = columns[:, 4]
    rendered["local"]["count"] = columns[:, 5]
    rendered["flags"] = columns[:, 6]
    rendered["kind"] = columns[:, 7]
    return rendered


def service_infos(layouts: Layouts, ports: Sequence[ServicePort]) -> Records:
    """Return struct service_info for each Service port."""
    rendered = np.zeros(len(ports), layouts["service_info"])
    keys = [port.key for port in ports]
    rendered["namespace_"] = [key.namespace.encode() for key in keys]
    rendered["name"] = [key.name.encode() for key in keys]
    rendered["port_name"] = [key.port_name.encode() for key in keys]
    rendered["service_type"] = [port.service_type.encode() for port in ports]
    rendered["port"] = [port.port for port in ports]
    rendered["protocol"] = [key.protocol for key in keys]
    rendered["family"] = [key.family for key in keys]
    rendered["endpoints"] = [port.endpoints for port in ports]
    return rendered


class Backends:
    """The backends of many Service ports, one row each, and the order of their slots.

    A Service port has one run of slots for both of its sets, so that Local costs nothing:

        │ only in Local │ in both │ only in Cluster │
        └──── local range ────────┘
                        └────── cluster range ──────┘

    Within a part, slots are in the order of `ServicePort.backends`.
    """

    def __init__(self, ports: Sequence[ServicePort]) -> None:
        lengths = np.fromiter((len(port.backends) for port in ports), np.int64, len(ports))
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        rows = chain.from_iterable(port.backends for port in ports)
        columns = zip(*rows, strict=True) if lengths.any() else _NO_ROWS
        self.addresses: tuple[bytes, ...]
        self.ports: tuple[int, ...]
        self.addresses, self.ports, flags = columns
        """One column each; a million rows are transposed faster than they are walked."""
        self.port_of = np.repeat(np.arange(len(ports)), lengths)
        """Row → index into `ports`."""
        self.flags = np.fromiter(flags, np.uint8, len(flags))
        part = _PART_BY_FLAGS[self.flags & _IN_ANY_SET]
        members = np.flatnonzero(part < _NO_PART)
        group = self.port_of[members] * _NO_PART + part[members]
        self.slot_rows = members[np.argsort(group, kind="stable")]
        """Rows that have a slot, run after run in the order of slots."""
        self.parts = np.bincount(group, minlength=len(ports) * _NO_PART).reshape(-1, _NO_PART)
        """Per port: backends only in Local, in both, only in Cluster."""
        self.run_lengths = self.parts.sum(axis=1)

    def render(self, layouts: Layouts, *, protocols: Records, service_ids: Records) -> Records:
        """Return struct backend for each row, generation 0; arguments are per port."""
        rendered = np.zeros(len(self.flags), layouts["backend"])
        rendered["address"] = address_keys(layouts, self.addresses)
        rendered["port"] = np.fromiter(self.ports, np.uint16, len(self.ports))
        rendered["flags"] = self.flags
        rendered["protocol"] = protocols[self.port_of]
        rendered["service_id"] = service_ids[self.port_of]
        return rendered

    def ranges(self, firsts: Records) -> list[tuple[SlotRange, SlotRange]]:
        """Return (cluster, local) of each port whose run starts at `firsts`."""
        only_local, both, only_cluster = self.parts.T
        return [
            (
                SlotRange(cluster_first, cluster_count) if cluster_count else EMPTY,
                SlotRange(local_first, local_count) if local_count else EMPTY,
            )
            for cluster_first, cluster_count, local_first, local_count in zip(
                (firsts + only_local).tolist(),
                (both + only_cluster).tolist(),
                firsts.tolist(),
                (only_local + both).tolist(),
                strict=True,
            )
        ]


EMPTY = SlotRange(0, 0)
_POLICY_LOCAL = int(FrontendFlag.POLICY_LOCAL)
_SOURCE_RANGES = int(FrontendFlag.SOURCE_RANGES)
_NO_ROWS: tuple[tuple[bytes, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())
_IN_ANY_SET = int(BackendFlag.IN_CLUSTER | BackendFlag.IN_LOCAL)
_NO_PART = 3
_PART_BY_FLAGS = np.full(_IN_ANY_SET + 1, _NO_PART, np.int64)
_PART_BY_FLAGS[BackendFlag.IN_LOCAL] = 0
_PART_BY_FLAGS[_IN_ANY_SET] = 1
_PART_BY_FLAGS[BackendFlag.IN_CLUSTER] = 2
