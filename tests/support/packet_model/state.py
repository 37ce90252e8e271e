# SPDX-License-Identifier: Apache-2.0
"""The tables of the datapath as the rules need them: connections, fragments, affinity."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.support.packet_model.tracking import Tracker
from tests.support.packet_model.wire import Packet
from tests.support.packet_model.world import Backend, Frontend, World

FragmentKey = tuple[bytes, bytes, int, int]  # source, destination, protocol, identification


@dataclass(slots=True)
class Affinity:
    backend_id: int
    generation: int
    last_used: int


@dataclass(slots=True)
class State:
    world: World
    tracker: Tracker
    random: random.Random = field(default_factory=lambda: random.Random(0))
    fragments: dict[FragmentKey, tuple[int, int, int]] = field(default_factory=dict)
    affinity: dict[tuple[int, bytes], Affinity] = field(default_factory=dict)

    def fragment_key(self, packet: Packet) -> FragmentKey:
        assert packet.fragment is not None
        return packet.source, packet.destination, packet.protocol, packet.fragment.identity

    def ports_of(self, packet: Packet, now: int) -> tuple[int, int] | None:
        """Ports of the first fragment, if it came and is not forgotten (D22, D24)."""
        known = self.fragments.get(self.fragment_key(packet))
        if known is None or now - known[2] > self.world.lifetimes.fragment:
            return None
        return known[:2]

    def note_fragment(self, packet: Packet, now: int) -> None:
        """A later first fragment under the same identification replaces it (D26)."""
        if packet.fragment is not None and packet.fragment.offset == 0:
            ports = packet.source_port, packet.destination_port
            self.fragments[self.fragment_key(packet)] = (*ports, now)

    def remembered(
        self, frontend: Frontend, backends: tuple[Backend, ...], client: bytes, now: int
    ) -> tuple[Backend, ...]:
        """The endpoint this client used last, if it still qualifies (R61-R66); else all."""
        known = self.affinity.get((frontend.service_id, client))
        if not frontend.affinity_timeout_s or known is None:
            return backends
        if now - known.last_used > frontend.affinity_timeout_s:
            return backends
        same = (known.backend_id, known.generation)
        return tuple(b for b in backends if (b.id, b.generation) == same) or backends

    def note_affinity(self, frontend: Frontend, backend: Backend, client: bytes, now: int) -> None:
        if frontend.affinity_timeout_s:
            entry = Affinity(backend.id, backend.generation, now)
            self.affinity[frontend.service_id, client] = entry
