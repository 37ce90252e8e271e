# SPDX-License-Identifier: Apache-2.0
"""Release connected UDP sockets whose backend stopped serving (R111-R113).

connect(2) fixed their destination, so the kernel must take it away: the socket gets
ECONNABORTED once and the application connects again, to a live backend. Two steps,
because only the first sees all network namespaces and only the second may destroy:

    vipbee_stale    every socket with a stale flow, with its namespace
    vipbee_release  run inside each of those namespaces; below 6.5: SOCK_DESTROY

Some hardened kernels refuse the first: then the second looks into every namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from vipbee.abi import MapName
from vipbee.datapath import syscall
from vipbee.datapath.namespaces import NamespaceGoneError, inside, namespace_paths
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.programs import RELEASE_ITERATOR, STALE_ITERATOR

_NETLINK_SOCK_DIAG, _SOCK_DESTROY = 4, 21
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4


class StaleSocket(NamedTuple):
    """struct stale_socket; addresses and ports in network order. A test compares the layout."""

    local_address: bytes  # 16
    remote_address: bytes
    local_port: bytes  # 2
    remote_port: bytes
    netns_inode: int
    ifindex: int
    family: int
    protocol: int


STALE_SOCKET = struct.Struct("=16s16s2s2sIIBB2x")


def release_stale_sockets(directory: PinDirectory) -> int:
    """Release every stale UDP socket of the node; return how many.

    0 as well if this kernel has neither iterator. A namespace that no process and no
    /run/netns entry holds cannot be entered and is left alone; without CAP_SYS_ADMIN that is
    every namespace but our own.
    """
    programs = directory.names("programs")
    if STALE_ITERATOR in programs:
        where = _by_namespace(_find_stale_sockets(directory))
        if not where:
            return 0
        paths = namespace_paths()
    elif RELEASE_ITERATOR in programs:
        paths = namespace_paths()
        where = {inode: [] for inode in paths}
    else:
        return 0
    own = os.stat("/proc/self/ns/net").st_ino
    released = 0
    for inode, sockets in where.items():
        action = partial(_release, directory, sockets)
        if inode == own:
            released += action()
        elif (path := paths.get(inode)) is not None:
            # no right: `vipbee check` says so
            with contextlib.suppress(PermissionError, NamespaceGoneError):
                released += inside(path, action)
    return released


def _by_namespace(sockets: Sequence[StaleSocket]) -> dict[int, list[StaleSocket]]:
    found: dict[int, list[StaleSocket]] = defaultdict(list)
    for record in sockets:
        found[record.netns_inode].append(record)
    return found


def _find_stale_sockets(directory: PinDirectory) -> list[StaleSocket]:
    """Stale sockets of all namespaces."""
    program = directory.get("programs", STALE_ITERATOR)
    if program is None:
        return []
    storage = directory.get("maps", MapName.SOCKET_FLOWS)
    try:
        raw = _run_iterator(program, storage)
    finally:
        os.close(program)
        if storage is not None:
            os.close(storage)
    return [StaleSocket(*fields) for fields in STALE_SOCKET.iter_unpack(raw)]


def _run_iterator(program_fd: int, map_fd: int | None = None) -> bytes:
    link = syscall.link_create_iter(program_fd, map_fd)
    try:
        iterator = syscall.iter_create(link)
    finally:
        os.close(link)
    output = bytearray()
    with open(iterator, "rb", buffering=0) as file:
        while chunk := file.read(65536):
            output += chunk
    return bytes(output)


def _release(directory: PinDirectory, sockets: Sequence[StaleSocket]) -> int:
    """In the namespace of `sockets`: release what is stale there."""
    program = directory.get("programs", RELEASE_ITERATOR)
    if program is None:
        return sum(_destroy(record) for record in sockets)
    try:
        return len(_run_iterator(program)) // 4  # one u32 for each
    finally:
        os.close(program)


def _destroy(record: StaleSocket) -> bool:
    """SOCK_DESTROY by addresses through sock_diag; False if the socket is gone already."""
    v4 = record.family == socket.AF_INET
    addresses = b""
    for raw in (record.local_address, record.remote_address):
        addresses += raw[12:] + b"\0" * 12 if v4 else raw
    # struct inet_diag_req_v2 with struct inet_diag_sockid; no cookie: addresses decide
    request = struct.pack("=BBBBI", record.family, record.protocol, 0, 0, 0xFFFFFFFF)
    request += record.local_port + record.remote_port + addresses
    request += struct.pack("=III", record.ifindex, 0xFFFFFFFF, 0xFFFFFFFF)
    header = struct.pack(
        "=IHHII", 16 + len(request), _SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + request)
        (result,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if result and -result not in (errno.ENOENT, errno.ENETUNREACH):
        raise OSError(-result, f"SOCK_DESTROY: {os.strerror(-result)}")
    return not result
