# SPDX-License-Identifier: Apache-2.0
"""Which D rows the packet tests name, and why the others are not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ROWS = [*range(1, 124), *range(145, 153)]
"""D rows a packet at a tc hook can show."""

NOT_YET: list[tuple[str, str]] = [
    ("D23", "what is held comes back to an attached program: test_packet_early_fragments.py"),
    ("D30", "no program runs at XDP"),
    ("D36", "CHECKSUM_PARTIAL needs a sending socket: tests/net, not a test run"),
    ("D42", "GSO super-packets need a sending socket: tests/net (1 GB transfer)"),
    ("D43", "no DSR, so nothing is added to a packet; a GSO packet is measured by segment"),
    ("D44", "UDP GSO needs a device: test_packet_wire.py"),
    ("D45", "no encapsulation is added"),
    ("D46", "no program runs at XDP"),
    ("D47", "no tunnel header is added"),
    ("D65", "echo is never given to a backend (R39), so no identifier is ever changed"),
    ("D87", "two nodes towards one backend: SNAT is always on for remote backends"),
    ("D99", "65,507 bytes do not fit one test run: 1 kB in parts here, 64 kB in tests/net"),
    ("D113", "a changed node address is the agent's: devices are rewritten, old flows expire"),
    ("D119", "map sizes against the number of CPUs: the agent refuses at start"),
    ("D123", "a full frontend table is the agent's: the Service is refused whole"),
    ("D147", "a pod's source is not checked: the device belongs to the CNI, which does"),
    ("D148", "no identities are kept that a source could be mistaken for"),
    ("D152", "v4-mapped destinations exist on sockets only: tests/bpf/test_connect.py"),
]
"""(row, why no packet test names it). Printed by the differential test."""

_NAMED = re.compile(r"\bD(\d{1,3})(?:-D(\d{1,3}))?\b")


def named_in(files: Iterable[Path]) -> set[int]:
    """Rows named in these files, ranges ("D32-D38") included."""
    found: set[int] = set()
    for file in files:
        for first, last in _NAMED.findall(file.read_text()):
            found.update(range(int(first), int(last or first) + 1))
    return found
