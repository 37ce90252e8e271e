# SPDX-License-Identifier: Apache-2.0
"""Can this machine run the packet layer? Its programs are loaded; attaching needs no trial:
tcx is told by whether the kernel knows the question what is attached to a device.
"""

from __future__ import annotations

import errno

from vipbee.datapath import syscall
from vipbee.datapath.features import Features, try_load
from vipbee.datapath.finding import Finding, Result, reason_of
from vipbee.datapath.programs import PACKET_PROGRAMS

_LOOPBACK = 1  # every network namespace has it, under this number


def probe_packets(features: Features) -> list[Finding]:
    """Rows about programs and attachment. Nothing blocks: the socket layer needs neither."""
    what = "packet programs"
    error = try_load(*PACKET_PROGRAMS, packet_lb=1)
    if error is not None:
        without = f"only sockets on this node are served: {reason_of(error)}"
        return [Finding(what, Result.FALLS_BACK, without)]
    return [
        Finding(what, Result.OK, "clients outside and sandboxed pods"),
        _attachment(),
        _sweep(features),
    ]


def _attachment() -> Finding:
    what = "attachment to devices"
    try:
        syscall.tcx_links(_LOOPBACK, syscall.TCX_INGRESS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return Finding(what, Result.FALLS_BACK, "clsact filters, which others can remove")
    return Finding(what, Result.OK, "tcx links")


def _sweep(features: Features) -> Finding:
    what = "forgetting connections"
    if features.sweep_iterators:
        return Finding(what, Result.OK, "iterators in the kernel")
    return Finding(what, Result.FALLS_BACK, "the agent walks the tables")
