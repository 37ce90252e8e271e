# SPDX-License-Identifier: Apache-2.0
"""Programs on a device below 6.6: direct-action filters of the clsact qdisc.

Ours have a priority and a handle of their own and programs called `vipbee_…`; filters of
others, and a qdisc that was there, are never changed. Must not know what is pinned.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from vipbee.datapath import rtnetlink as nl

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
"""Parents of filters, as TC_H_MIN_INGRESS and _EGRESS of clsact."""

PRIORITY = 0x7162
"""Programs of others with lower priorities run before, with higher ones after ours."""
HANDLE = 0x7662

_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_ETH_P_ALL = 0x0003
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_NAME_PREFIX = "vipbee_"


@dataclass(frozen=True, slots=True)
class Filter:
    priority: int
    handle: int
    name: str
    program_id: int

    @property
    def is_ours(self) -> bool:
        return (
            self.priority == PRIORITY
            and self.handle == HANDLE
            and self.name.startswith(_NAME_PREFIX)
        )


def ensure_qdisc(ifindex: int) -> bool:
    """Give the device a clsact qdisc; False if it has one already."""
    body = _header(ifindex, _CLSACT_HANDLE, _CLSACT, 0) + nl.attribute(_TCA_KIND, b"clsact\0")
    try:
        nl.request(nl.NEWQDISC, body, nl.CREATE | nl.EXCL)
    except FileExistsError:
        return False
    return True


def remove_qdisc(ifindex: int) -> None:
    """Remove the device's clsact qdisc, unless a filter is left or it is gone already."""
    if read_filters(ifindex, INGRESS) or read_filters(ifindex, EGRESS):
        return
    body = _header(ifindex, _CLSACT_HANDLE, _CLSACT, 0) + nl.attribute(_TCA_KIND, b"clsact\0")
    _ignoring_absence(nl.DELQDISC, body)


def put_filter(ifindex: int, parent: int, program_fd: int, name: str) -> None:
    """Run a program at this hook, in one step instead of ours that was there."""
    options = (
        nl.attribute(_TCA_BPF_FD, struct.pack("=I", program_fd))
        + nl.attribute(_TCA_BPF_NAME, name.encode() + b"\0")
        + nl.attribute(_TCA_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
    )
    body = (
        _header(ifindex, HANDLE, parent, _info())
        + nl.attribute(_TCA_KIND, b"bpf\0")
        + nl.attribute(_TCA_OPTIONS, options)
    )
    nl.request(nl.NEWFILTER, body, nl.CREATE | nl.REPLACE)


def remove_filter(ifindex: int, parent: int) -> bool:
    """Remove ours; False if it is not there."""
    if not any(found.is_ours for found in read_filters(ifindex, parent)):
        return False
    body = _header(ifindex, HANDLE, parent, _info()) + nl.attribute(_TCA_KIND, b"bpf\0")
    _ignoring_absence(nl.DELFILTER, body)
    return True


def read_filters(ifindex: int, parent: int) -> list[Filter]:
    """Everybody's filters at one hook of a device; empty without clsact or device."""
    try:
        messages = nl.dump(nl.GETFILTER, _header(ifindex, 0, parent, 0))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            return []
        raise
    found = []
    for message in messages:
        if message.type != nl.NEWFILTER:
            continue
        _, index, handle, where, info = struct.unpack_from("=BxxxiIII", message.body)
        if index != ifindex or where != parent or not handle:
            continue  # the head of a priority's list has no handle
        values = nl.attributes(message.body, 20)
        options = nl.attributes(values.get(_TCA_OPTIONS, b""))
        (program_id,) = struct.unpack("=I", options.get(_TCA_BPF_ID, b"\0\0\0\0"))
        name = nl.text(options.get(_TCA_BPF_NAME, b""))
        found.append(Filter(info >> 16, handle, name, program_id))
    return found


def _header(ifindex: int, handle: int, parent: int, info: int) -> bytes:
    """struct tcmsg."""
    return struct.pack("=BxxxiIII", socket.AF_UNSPEC, ifindex, handle, parent, info)


def _info() -> int:
    """Priority in the upper half, protocol in network order in the lower."""
    return PRIORITY << 16 | socket.htons(_ETH_P_ALL)


def _ignoring_absence(kind: int, body: bytes) -> None:
    try:
        nl.request(kind, body)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            raise
