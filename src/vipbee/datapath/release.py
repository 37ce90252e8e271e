# SPDX-License-Identifier: Apache-2.0
"""Release connected UDP sockets whose backend stopped serving (R111-R113).

connect(2) fixed their destination, so the kernel must take it away: the socket gets
ECONNABORTED once and the application connects again, to a live backend. Two steps,
because only the first sees all network namespaces and only the second may destroy:

    vipbee_stale    every socket with a stale flow, with its namespace
    vipbee_release  run inside each of those namespaces; below 6.5: SOCK_DESTROY
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import os
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vipbee.abi import Layouts, MapName
from vipbee.datapath import syscall
from vipbee.datapath.features import RELEASE_ITERATOR, STALE_ITERATOR
from vipbee.datapath.pins import PinDirectory

_CLONE_NEWNET = 0x40000000
_NETLINK_SOCK_DIAG, _SOCK_DESTROY = 4, 21
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4


def release_stale_sockets(directory: PinDirectory, layouts: Layouts) -> int:
    """Release every stale UDP socket of the node; return how many.

    0 as well if this kernel has no iterator over socket storage. A namespace that no
    process and no /run/netns entry holds cannot be entered and is left alone; without
    CAP_SYS_ADMIN that is every namespace but our own.
    """
    stale = find_stale_sockets(directory, layouts)
    if not len(stale):
        return 0
    by_namespace: dict[int, list[np.void]] = defaultdict(list)
    for record in stale:
        by_namespace[int(record["netns_inode"])].append(record)
    own, paths = os.stat("/proc/self/ns/net").st_ino, _namespace_paths()
    released = 0
    for inode, sockets in by_namespace.items():
        action = partial(_release, directory, sockets)
        if inode == own:
            released += action()
        elif (path := paths.get(inode)) is not None:
            with contextlib.suppress(PermissionError):  # `vipbee check` says so
                released += _inside(path, action)
    return released


def find_stale_sockets(directory: PinDirectory, layouts: Layouts) -> np.ndarray:
    """Stale sockets of all namespaces as an array of struct stale_socket."""
    dtype = layouts["stale_socket"]
    program = directory.get("programs", STALE_ITERATOR)
    if program is None:
        return np.zeros(0, dtype=dtype)
    storage = directory.get("maps", MapName.SOCKET_FLOWS)
    try:
        raw = _run_iterator(program, storage)
    finally:
        os.close(program)
        if storage is not None:
            os.close(storage)
    return np.frombuffer(raw, dtype=dtype)


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


def _release(directory: PinDirectory, sockets: Sequence[np.void]) -> int:
    """In the namespace of `sockets`: release what is stale there."""
    program = directory.get("programs", RELEASE_ITERATOR)
    if program is None:
        return sum(_destroy(record) for record in sockets)
    try:
        return len(_run_iterator(program)) // 4  # one u32 for each
    finally:
        os.close(program)


def _destroy(record: np.void) -> bool:
    """SOCK_DESTROY by addresses through sock_diag; False if the socket is gone already."""
    v4 = record["family"] == socket.AF_INET
    addresses = b""
    for name in ("local_address", "remote_address"):
        raw = record[name].tobytes()
        addresses += raw[12:] + b"\0" * 12 if v4 else raw
    # A NumPy scalar is in host order, whatever the order of the field it came from.
    ports = struct.pack("!HH", int(record["local_port"]), int(record["remote_port"]))
    # struct inet_diag_req_v2 with struct inet_diag_sockid; no cookie: addresses decide
    request = struct.pack("=BBBBI", record["family"], record["protocol"], 0, 0, 0xFFFFFFFF)
    request += ports + addresses + struct.pack("=III", record["ifindex"], 0xFFFFFFFF, 0xFFFFFFFF)
    header = struct.pack(
        "=IHHII", 16 + len(request), _SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.send(header + request)
        (result,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if result and -result not in (errno.ENOENT, errno.ENETUNREACH):
        raise OSError(-result, f"SOCK_DESTROY: {os.strerror(-result)}")
    return not result


def _namespace_paths() -> dict[int, Path]:
    """A path for each network namespace that can be entered, by inode."""
    found: dict[int, Path] = {}
    named = Path("/run/netns")
    candidates = [named / n for n in os.listdir(named)] if named.is_dir() else []
    candidates += [Path("/proc", p, "ns", "net") for p in os.listdir("/proc") if p.isdigit()]
    for path in candidates:
        try:
            found.setdefault(path.stat().st_ino, path)
        except OSError:
            continue  # the process has gone
    return found


def _inside(namespace: Path, action: Callable[[], int]) -> int:
    """Run `action` in a network namespace, in a thread of its own that ends with it."""
    result: list[int] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # os.setns is Python 3.12
                libc = c.CDLL(None, use_errno=True)
                if libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(c.get_errno(), "setns")
            finally:
                os.close(fd)
            result.append(action())
        except FileNotFoundError:
            result.append(0)  # the namespace went away meanwhile, and its sockets with it
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
