# SPDX-License-Identifier: Apache-2.0
"""Devices that take super-packets beyond 64 kB (BIG TCP: IPv6 from 5.19, IPv4 from 6.3).

By netlink: the `ip` of the older Debian does not know the sizes of IPv4.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_ROUTE, _NEW_LINK, _REQUEST_ACK = 0, 16, 5
_GSO_SIZES = (41, 63)  # IFLA_GSO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE
_GRO_SIZES = (58, 64)
ORDINARY, BIG = 65536, 185_000
_ALL, _SO_RCVBUFFORCE = 3, 33


def set_sizes(device: str, size: int) -> None:
    """Of what this device of the namespace sends and puts together; OSError if it refuses."""
    attributes = b"".join(struct.pack("=HHI", 8, kind, size) for kind in (*_GSO_SIZES, *_GRO_SIZES))
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + attributes
    header = struct.pack("=IHHII", 16 + len(body), _NEW_LINK, _REQUEST_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE) as route:
        route.send(header + body)
        (error,) = struct.unpack_from("=i", route.recv(4096), 16)
    if error:
        raise OSError(-error, os.strerror(-error), device)


def frames_of(device: str) -> socket.socket:
    """What passes this device of the namespace, whole, from now on."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    opened.bind((device, _ALL))
    opened.setblocking(False)
    return opened


def drained(opened: socket.socket) -> Iterator[bytes]:
    """The frames so far."""
    buffer = bytearray(BIG + ORDINARY)
    while True:
        try:
            yield bytes(buffer[: opened.recv_into(buffer)])
        except BlockingIOError:
            return
