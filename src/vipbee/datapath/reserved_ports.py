# SPDX-License-Identifier: Apache-2.0
"""net.ipv4.ip_local_reserved_ports of this network namespace (it holds for IPv6 as well).

A connection of the node that started from a NodePort number would get its replies taken
for new connections to that NodePort (R94, D107). What the administrator has reserved
stays; what was added is noted in a pinned map first, so that cleanup takes away just that.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from vipbee.abi import MapName
from vipbee.core.port_ranges import PortRange, format_port_list, parse_port_list
from vipbee.datapath import syscall
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.datapath.pins import PinDirectory

SYSCTL = "net.ipv4.ip_local_reserved_ports"
PATH = Path("/proc/sys", *SYSCTL.split("."))
PATH_IN_POD = Path("/run/vipbee", PATH.name)
"""A pod's own /proc/sys is read-only; deploy/ mounts this one file of the node's there."""
_KEY = bytearray(4)
NOTE = struct.Struct("=Q8192s")
"""struct reserved_ports: the namespace's cookie, a bit for each port; a test compares."""


def reserve(directory: PinDirectory, wanted: PortRange | None) -> bool:
    """Reserve these ports and no longer those added earlier; None: only the latter.

    True if the sysctl was written. OSError if it cannot be: /proc/sys is often read-only
    in containers.
    """
    present = parse_port_list(_path().read_text())
    before = _read_note(directory)
    theirs = present - before
    ours = (wanted.ports if wanted else frozenset()) - theirs
    target = theirs | ours
    if target == present and ours == before:
        return False
    # noted before it is done, and again when it is: a kill in between forgets nothing
    _write_note(directory, before | ours)
    if target != present:
        _path().write_text(format_port_list(target) + "\n")
    _write_note(directory, ours)
    return target != present


def missing_ports(wanted: PortRange) -> int:
    """How many of these are not reserved, whoever should have done it."""
    return len(wanted.ports - parse_port_list(_path().read_text()))


def is_writable() -> bool:
    return os.access(_path(), os.W_OK)


def _path() -> Path:
    return PATH_IN_POD if PATH_IN_POD.exists() else PATH


def _read_note(directory: PinDirectory) -> frozenset[int]:
    """What was added in this namespace; nothing if there is no note."""
    raw = bytearray(NOTE.size)
    fd = directory.get("maps", MapName.RESERVED_PORTS)
    if fd is None:
        return frozenset()
    try:
        syscall.map_lookup(fd, _KEY, raw)
    finally:
        os.close(fd)
    cookie, bits = NOTE.unpack(raw)
    if cookie != netns_cookie():
        return frozenset()
    return frozenset(
        8 * at + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1
    )


def _write_note(directory: PinDirectory, ports: frozenset[int]) -> None:
    fd = directory.get("maps", MapName.RESERVED_PORTS)
    if fd is None:
        raise FileNotFoundError(errno.ENOENT, "the pin of the map reserved_ports is missing")
    bits = bytearray(1 << 13)
    for port in ports:
        bits[port >> 3] |= 1 << (port & 7)
    try:
        syscall.map_update(fd, _KEY, bytearray(NOTE.pack(netns_cookie(), bytes(bits))))
    finally:
        os.close(fd)
