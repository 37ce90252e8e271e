# SPDX-License-Identifier: Apache-2.0
"""net.ipv4.ip_local_reserved_ports of this network namespace (it holds for IPv6 as well).

A connection of the node that started from a NodePort number would get its replies taken
for new connections to that NodePort (R94, D107). What the administrator has reserved
stays; what was added is noted in a pinned map first, so that cleanup takes away just that.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from vipbee.abi import Layouts, MapName
from vipbee.core.port_ranges import PortRange, format_port_list, parse_port_list
from vipbee.datapath import syscall
from vipbee.datapath.netns import netns_cookie
from vipbee.datapath.pins import PinDirectory

SYSCTL = "net.ipv4.ip_local_reserved_ports"
PATH = Path("/proc/sys", *SYSCTL.split("."))
PATH_IN_POD = Path("/run/vipbee", PATH.name)
"""A pod's own /proc/sys is read-only; deploy/ mounts this one file of the node's there."""
_KEY = np.zeros(1, dtype=np.uint32)


def reserve(directory: PinDirectory, layouts: Layouts, wanted: PortRange | None) -> bool:
    """Reserve these ports and no longer those added earlier; None: only the latter.

    True if the sysctl was written. OSError if it cannot be: /proc/sys is often read-only
    in containers.
    """
    present = parse_port_list(_path().read_text())
    before = _read_note(directory, layouts)
    theirs = present - before
    ours = (wanted.ports if wanted else frozenset()) - theirs
    target = theirs | ours
    if target == present and ours == before:
        return False
    # noted before it is done, and again when it is: a kill in between forgets nothing
    _write_note(directory, layouts, before | ours)
    if target != present:
        _path().write_text(format_port_list(target) + "\n")
    _write_note(directory, layouts, ours)
    return target != present


def missing_ports(wanted: PortRange) -> int:
    """How many of these are not reserved, whoever should have done it."""
    return len(wanted.ports - parse_port_list(_path().read_text()))


def is_writable() -> bool:
    return os.access(_path(), os.W_OK)


def _path() -> Path:
    return PATH_IN_POD if PATH_IN_POD.exists() else PATH


def _read_note(directory: PinDirectory, layouts: Layouts) -> frozenset[int]:
    """What was added in this namespace; nothing if there is no note."""
    note = np.zeros(1, layouts["reserved_ports"])
    fd = directory.get("maps", MapName.RESERVED_PORTS)
    if fd is None:
        return frozenset()
    try:
        syscall.map_lookup(fd, _KEY, note)
    finally:
        os.close(fd)
    if int(note["netns_cookie"][0]) != netns_cookie():
        return frozenset()
    bits = np.unpackbits(note["bits"].view(np.uint8), bitorder="little")
    return frozenset(np.flatnonzero(bits).tolist())


def _write_note(directory: PinDirectory, layouts: Layouts, ports: frozenset[int]) -> None:
    fd = directory.get("maps", MapName.RESERVED_PORTS)
    if fd is None:
        raise FileNotFoundError(errno.ENOENT, "the pin of the map reserved_ports is missing")
    bits = np.zeros(1 << 16, np.uint8)
    bits[list(ports)] = 1
    note = np.zeros(1, layouts["reserved_ports"])
    note["netns_cookie"] = netns_cookie()
    note["bits"] = np.packbits(bits, bitorder="little").view("<u8")
    try:
        syscall.map_update(fd, _KEY, note)
    finally:
        os.close(fd)
