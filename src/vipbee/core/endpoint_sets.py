# SPDX-License-Identifier: Apache-2.0
"""Endpoints of one Service port → one entry per address and port, and which sets it is in.

The definition of the Cluster set and the Local set (R18, R26–R31, R69–R74). Must not
know slices or Services.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vipbee.abi import BackendFlag
from vipbee.core.nodes import NodeView
from vipbee.model import Backend

# Plain ints: arithmetic on IntFlag costs a microsecond each time.
_SERVING = int(BackendFlag.SERVING)
_IN_CLUSTER = int(BackendFlag.IN_CLUSTER)
_IN_LOCAL = int(BackendFlag.IN_LOCAL)
_ON_NODE = int(BackendFlag.ON_NODE)
_TERMINATING = int(BackendFlag.TERMINATING)
_READY = int(BackendFlag.READY)

NO_HINTS: frozenset[str] = frozenset()

Place = tuple[bytes, int]  # address and port: what makes two endpoints the same (R13, R17)


class PortEndpoints(NamedTuple):
    """Backends as in `model.ServicePort`, and how many endpoints the slices name."""

    backends: tuple[Backend, ...]
    endpoints: int


class Member(NamedTuple):
    """One endpoint of one slice after defaulting (R26)."""

    address: bytes
    is_ready: bool
    is_serving: bool
    is_terminating: bool
    is_local: bool
    zones: frozenset[str] = NO_HINTS
    nodes: frozenset[str] = NO_HINTS

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """Which of two entries for one address and port counts: the greater (R18)."""
        return not self.is_terminating, self.is_ready, self.is_serving

    @property
    def is_fallback(self) -> bool:
        """Used only while nobody is Ready (R28, R29)."""
        return not self.is_ready and self.is_serving and self.is_terminating


def merge(
    found: Mapping[Place, list[Member]], refused: set[Place], node: NodeView
) -> PortEndpoints:
    """Resolve, choose the sets and order the serving endpoints by address and port.

    `found` is what all slices say of each place; `refused` are places that are counted
    as endpoints but never used.
    """
    merged = {place: _resolve(entries) for place, entries in found.items()}
    cluster = _cluster_set(merged, node)
    local = _local_set(merged)
    backends = []
    for place, member in sorted(merged.items(), key=_place):
        if not member.is_serving:
            continue
        flags = _SERVING
        if member.is_ready:
            flags |= _READY
        if member.is_terminating:
            flags |= _TERMINATING
        if member.is_local:
            flags |= _ON_NODE
        if place in cluster:
            flags |= _IN_CLUSTER
        if place in local:
            flags |= _IN_LOCAL
        backends.append(Backend(place[0], place[1], flags))
    return PortEndpoints(tuple(backends), len(merged) + len(refused))


def _resolve(entries: list[Member]) -> Member:
    """One entry for what several slices say of one address and port (R18).

    Of equals the hints are united and any of them being local suffices, so the
    result does not depend on the order of slices.
    """
    if len(entries) == 1:
        return entries[0]
    rank = max(entry.rank for entry in entries)
    best = [entry for entry in entries if entry.rank == rank]
    kin = [entry for entry in entries if entry.is_ready] if best[0].is_ready else best
    return Member(
        address=best[0].address,
        is_ready=best[0].is_ready,
        is_serving=best[0].is_serving,
        is_terminating=best[0].is_terminating,
        is_local=any(entry.is_local for entry in kin),
        zones=frozenset().union(*(entry.zones for entry in best)),
        nodes=frozenset().union(*(entry.nodes for entry in best)),
    )


def _cluster_set(merged: dict[Place, Member], node: NodeView) -> set[Place]:
    """R28, with the Ready endpoints reduced by hints (R69–R74)."""
    ready = {place: member for place, member in merged.items() if member.is_ready}
    if not ready:
        return {place for place, member in merged.items() if member.is_fallback}
    if all(member.nodes for member in ready.values()):
        same_node = {place for place, member in ready.items() if node.name in member.nodes}
        if same_node:
            return same_node
    if node.zone and all(member.zones for member in ready.values()):
        same_zone = {place for place, member in ready.items() if node.zone in member.zones}
        if same_zone:
            return same_zone
    return set(ready)


def _local_set(merged: dict[Place, Member]) -> set[Place]:
    """R29: independent of the Cluster set and of hints."""
    local = {place: member for place, member in merged.items() if member.is_local}
    ready = {place for place, member in local.items() if member.is_ready}
    return ready or {place for place, member in local.items() if member.is_fallback}


def _place(item: tuple[Place, Member]) -> Place:
    return item[0]
