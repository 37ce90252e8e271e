# SPDX-License-Identifier: Apache-2.0
"""How many entries each map may hold, from the memory of the machine.

Bytes of kernel memory per entry (bpf/abi.h; arrays pay up front, hashes without
preallocation only for what is stored, LRU hashes up front again):

    backends            32 + 16   array, with its counters
    slots                     8   array: the kernel rounds a u32 value up to 8
    service_counters         64   array, one per id of `services`
    frontends, addresses, services, reports    on demand, ~16 per bucket up front
    udp_flows              ~130   LRU hash
    affinity               ~110   LRU hash
    socket_flows_lru       ~140   LRU hash, created where socket storage is missing

With the packet layer, each for clients outside and again for pods:

    conntrack         16 + ~330   two hashes: the entry and its reverse half
    conntrack_new          ~330   two LRU hashes
    fragments, source_ranges      LRU hash, ~120; trie on demand, ~80
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from vipbee.errors import UsageError

_SHARE = 0.003  # of memory; Cilium's --bpf-map-dynamic-size-ratio is 0.0025
_BACKENDS_PER_SERVICE = 8
_SLOTS_PER_SERVICE = 16  # a run for `cluster`, one for `local`, and the runs in quarantine
_BYTES_PER_CONNECTION = 48 << 10  # of memory: half a million on 24 GiB, 0.75 % when full
_LRU_ENTRIES_PER_CPU = 1024  # the kernel keeps some hundred free entries for each CPU aside
_LRU_SIZES = ("udp_flows", "affinity", "socket_flows_lru", "conntrack_new", "fragments")
_ZONES = 2
_WORRYING_SHARE, _REFUSED_SHARE = 0.25, 0.5
_LRU_REFUSED_PER_CPU = 256  # twice LOCAL_FREE_TARGET of kernel/bpf/bpf_lru_list.c
_BYTES_PER_SERVICE = 64 + _BACKENDS_PER_SERVICE * (32 + 16) + _SLOTS_PER_SERVICE * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSizes:
    """max_entries by map; the defaults are the floor of `for_memory`.

    `services` also sizes service_counters, `backends` also backend_counters. A
    "service" is one Service port of one family.
    """

    services: int = 32_768
    backends: int = 65_536
    slots: int = 131_072
    frontends: int = 65_536
    addresses: int = 65_536
    udp_flows: int = 16_384
    affinity: int = 16_384
    socket_flows_lru: int = 65_536
    reports: int = 4_096
    conntrack: int = 65_536
    conntrack_new: int = 32_768
    fragments: int = 8_192
    source_ranges: int = 16_384

    @classmethod
    def for_memory(cls, total_bytes: int, cpus: int = 1) -> MapSizes:
        """Take about 0.3 % (0.2 to 0.45, by powers of two) between a floor and a ceiling.

        24 GiB hold 100,000 Services of 10 endpoints each: 131,072 services,
        1,048,576 backends, 2,097,152 slots; and 524,288 connections of clients outside
        and as many of pods. An LRU map is never so small that its CPUs' free entries fill it.
        """
        connections = _nearest_power_of_two(total_bytes / _BYTES_PER_CONNECTION)
        lru_floor = 1 << math.ceil(math.log2(_LRU_ENTRIES_PER_CPU * max(cpus, 1)))
        services = _nearest_power_of_two(total_bytes * _SHARE / _BYTES_PER_SERVICE)
        return cls(
            services=_clamp(services, 32_768, 262_144),
            backends=_clamp(services * _BACKENDS_PER_SERVICE, 65_536, 1_048_576),
            slots=_clamp(services * _SLOTS_PER_SERVICE, 131_072, 2_097_152),
            frontends=_clamp(services * 2, 65_536, 524_288),
            addresses=_clamp(services * 2, 65_536, 524_288),
            udp_flows=_clamp(services // 2, max(16_384, lru_floor), 131_072),
            affinity=_clamp(services // 2, max(16_384, lru_floor), 131_072),
            socket_flows_lru=_clamp(services, max(65_536, lru_floor), 262_144),
            conntrack=_clamp(connections, 65_536, 4_194_304),
            conntrack_new=_clamp(connections // 4, max(32_768, lru_floor), 1_048_576),
            fragments=_clamp(connections // 64, max(8_192, lru_floor), 65_536),
            source_ranges=_clamp(services // 4, 16_384, 131_072),
        )

    @property
    def bytes_up_front(self) -> int:
        """Kernel memory these maps take as soon as they exist, by the table above."""
        arrays = self.backends * 48 + self.slots * 8 + self.services * 64
        buckets = 16 * (self.frontends + self.addresses + self.services + self.reports)
        flows = self.udp_flows * 130 + self.affinity * 110 + self.socket_flows_lru * 140
        connections = _ZONES * (self.conntrack * 2 * 16 + self.conntrack_new * 330)
        return arrays + buckets + flows + connections + self.fragments * 120

    @property
    def bytes_when_full(self) -> int:
        """The same once every table of connections and source ranges is full."""
        return self.bytes_up_front + _ZONES * self.conntrack * 330 + self.source_ranges * 80

    def problems(self, total_bytes: int, cpus: int) -> list[str]:
        """What will not work well on such a machine, one sentence each (D119).

        Raises UsageError for sizes with which nothing would work.
        """
        if self.bytes_up_front > total_bytes * _REFUSED_SHARE:
            raise UsageError(
                f"map-sizes take {_mib(self.bytes_up_front)} MiB at once, more than half of this"
                f" machine's {_mib(total_bytes)} MiB: give smaller ones"
            )
        found = []
        least = _LRU_ENTRIES_PER_CPU * max(cpus, 1)
        for name in _LRU_SIZES:
            if getattr(self, name) < _LRU_REFUSED_PER_CPU * max(cpus, 1):
                raise UsageError(
                    f"map-sizes: {name} of {getattr(self, name)} entries is too small for {cpus}"
                    f" CPUs, whose free entries alone would fill it: give it at least {least}"
                )
            if (size := getattr(self, name)) < least:
                found.append(
                    f"{name} of {size} entries is too small for {cpus} CPUs, each of which keeps"
                    " some hundred free ones aside: entries are evicted while there is room;"
                    f" give it at least {least}"
                )
        if self.bytes_when_full > total_bytes * _WORRYING_SHARE:
            found.append(
                f"they take up to {_mib(self.bytes_when_full)} MiB when full, more than a quarter"
                f" of this machine's {_mib(total_bytes)} MiB: give smaller ones"
            )
        return found

    def with_overrides(self, overrides: Mapping[str, int]) -> MapSizes:
        """Copy with some sizes set by the operator."""
        return replace(self, **overrides)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The sizes there are, as the configuration file calls them."""
        return tuple(field.name for field in fields(cls))


def _nearest_power_of_two(value: float) -> int:
    """Power of two whose ratio to `value` is at most √2 either way; at least 1."""
    return 1 << round(math.log2(max(value, 1)))


def _mib(size: int) -> int:
    return -(-size // (1 << 20))


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
