# SPDX-License-Identifier: Apache-2.0
"""Ranges of ports, and sets of ports as the kernel writes them (`1-3,5`). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

LAST_PORT = 65535
PRIVILEGED_PORTS = 1024
"""Never a source port of ours: services of the node listen below."""

_RANGE = re.compile(r"\s*([0-9]{1,5})\s*[-,:]\s*([0-9]{1,5})\s*", re.ASCII)
_PART = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_EPHEMERAL_FIRST = 32768
_FEW = 4096  # source ports: fewer are worth going below the usual ephemeral ones


class PortRange(NamedTuple):
    """From `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def has(self, port: int) -> bool:
        return self.first <= port <= self.last

    def overlaps(self, other: PortRange) -> bool:
        return self.first <= other.last and other.first <= self.last

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(range(self.first, self.last + 1))


NODE_PORTS = PortRange(30000, 32767)
"""What the API server gives out by default (R93)."""


def parse_port_range(text: str) -> PortRange:
    """Read `30000-32767`, or with a comma as Cilium writes it; raise ValueError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no range of ports like 30000-32767")
    found = PortRange(int(match[1]), int(match[2]))
    if not 1 <= found.first <= found.last <= LAST_PORT:
        raise ValueError(f"{text!r} is no range of ports between 1 and {LAST_PORT}")
    return found


def source_ports_beside(node_ports: PortRange) -> PortRange:
    """Where SNAT may take ports from: replies to a NodePort number belong to its Service.

    The larger part of 32768-65535 that is no NodePort, or of everything unprivileged if
    that leaves few.
    """
    best = _largest_gap(_EPHEMERAL_FIRST, node_ports)
    return best if best.size >= _FEW else _largest_gap(PRIVILEGED_PORTS, node_ports)


def _largest_gap(first: int, taken: PortRange) -> PortRange:
    whole = PortRange(first, LAST_PORT)
    if not taken.overlaps(whole):
        return whole
    below = PortRange(first, taken.first - 1)
    above = PortRange(max(taken.last + 1, first), LAST_PORT)
    return max(below, above, key=lambda part: part.size)


def parse_port_list(text: str) -> frozenset[int]:
    """Read a set as sysctls show it: `8080,30000-32767`, or nothing; raise ValueError."""
    found: set[int] = set()
    for part in filter(None, (word.strip() for word in text.split(","))):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no port")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def format_port_list(ports: Iterable[int]) -> str:
    """The same text again, in order and as short as can be; "" for none."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)
