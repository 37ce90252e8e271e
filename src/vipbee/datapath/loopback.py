# SPDX-License-Identifier: Apache-2.0
"""Loopback as a door into this node: its stack must take the node's own addresses there.

A program of the node that dials a NodePort of the node gets replies from that very address.
The packet layer hands them in at loopback, which nothing outside can reach; IPv4 takes
such a source only where `accept_local` is set. That we set it is noted beside the pins, so
that what somebody else had set stays.
"""

from __future__ import annotations

from pathlib import Path

from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.datapath.pins import PinDirectory

SYSCTL = "net.ipv4.conf.lo.accept_local"
ACCEPT_LOCAL = Path("/proc/sys/net/ipv4/conf/lo/accept_local")
PATH_IN_POD = Path("/run/vipbee", ACCEPT_LOCAL.name)
"""A pod's own /proc/sys is read-only; deploy/ mounts this one file of the node's there."""
_NOTES = "sysctls"


def accept_own_addresses(directory: PinDirectory, path: Path | None = None) -> str:
    """Set it in the calling thread's namespace; why that failed, or ""."""
    path = path or _path()
    try:
        if path.read_text().strip() == "0":
            directory.note(_NOTES, _note())  # first: killed in between, it is set to 0 twice
            path.write_text("1")
    except OSError as error:
        return (
            f"{path} cannot be set ({error.strerror}): programs of this node reach its own IPv4"
            " NodePorts at the socket only; set it to 1"
        )
    return ""


def refuse_own_addresses(directory: PinDirectory, path: Path | None = None) -> bool:
    """Set it back if it was us, in the calling thread's namespace; OSError if that fails."""
    if _note() not in directory.notes(_NOTES):
        return False
    (path or _path()).write_text("0")
    directory.forget(_NOTES, _note())
    return True


def _path() -> Path:
    return PATH_IN_POD if PATH_IN_POD.exists() else ACCEPT_LOCAL


def _note() -> str:
    return f"{netns_cookie()}-{ACCEPT_LOCAL.name}"
