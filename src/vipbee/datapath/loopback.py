# SPDX-License-Identifier: Apache-2.0
"""Loopback as a door into this node: its stack must take the node's own addresses there.

A program of the node that dials a NodePort of the node gets replies from that very address.
The packet layer hands them in at loopback, which nothing outside can reach; IPv4 takes
such a source only where `accept_local` is set.
"""

from __future__ import annotations

from pathlib import Path

ACCEPT_LOCAL = Path("/proc/sys/net/ipv4/conf/lo/accept_local")
PATH_IN_POD = Path("/run/vipbee", ACCEPT_LOCAL.name)
"""A pod's own /proc/sys is read-only; deploy/ mounts this one file of the node's there."""


def accept_own_addresses(path: Path | None = None) -> str:
    """Set it in the calling thread's namespace; why that failed, or ""."""
    if path is None:
        path = PATH_IN_POD if PATH_IN_POD.exists() else ACCEPT_LOCAL
    try:
        if path.read_text().strip() == "0":
            path.write_text("1")
    except OSError as error:
        return (
            f"{path} cannot be set ({error.strerror}): programs of this node reach its own IPv4"
            " NodePorts at the socket only; set it to 1"
        )
    return ""
