# SPDX-License-Identifier: Apache-2.0
"""Route netlink on the wire: requests, dumps, attributes and change notices. No meaning.

Other families have the same dumps and attributes: `dump` is told which.

By hand rather than through pyroute2, which takes a millisecond for a device, and a tenth of
a second to import: a node with a thousand pods reads a thousand devices whenever one of them
comes or goes.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
NEWFILTER, DELFILTER, GETFILTER = 44, 45, 46

ROUTE, NETFILTER = socket.NETLINK_ROUTE, 12

CREATE, EXCL, REPLACE = 0x400, 0x200, 0x100
_REQUEST, _ACK, _DUMP, _DUMP_INTERRUPTED = 0x1, 0x4, 0x300, 0x10
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _STRICT_CHECK = 270, 12
_DUMP_ATTEMPTS = 5
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without the flags "nested" and "network order"


class Message(NamedTuple):
    type: int
    body: bytes  # the family's header, then attributes


def request(kind: int, body: bytes, flags: int = 0) -> None:
    """Ask for one change; raise OSError with the kernel's errno if it is refused."""
    with _open() as netlink:
        _send(netlink, kind, flags | _REQUEST | _ACK, body)
        for message in _messages(netlink.recv(65536)):
            if message.type == _ERROR:
                _raise_if_error(message)


def ask(kind: int, body: bytes) -> Message:
    """The one message that answers; raise OSError with the kernel's errno if there is none."""
    with _open() as netlink:
        _send(netlink, kind, _REQUEST, body)
        answer = next(_messages(netlink.recv(65536)))
    if answer.type == _ERROR:
        _raise_if_error(answer)
    return answer


def dump(kind: int, body: bytes, netlink_family: int = ROUTE) -> list[Message]:
    """Everything of one kind, at one moment: repeated while something changes meanwhile.

    The kernel filters by `body` as far as it can (strict checking, 4.20).
    """
    for attempt in range(_DUMP_ATTEMPTS):
        with _open(netlink_family) as netlink:
            netlink.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
            _send(netlink, kind, _REQUEST | _DUMP, body)
            found, is_consistent = _receive_dump(netlink)
        if is_consistent or attempt == _DUMP_ATTEMPTS - 1:
            break
    return found


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type; of several of one type the last counts."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + padding


def text(value: bytes) -> str:
    """A name as the kernel gives it; a device's name may be any bytes but `/` and blanks."""
    return os.fsdecode(value.rstrip(b"\0"))


def open_notices(groups: int) -> socket.socket:
    """A non-blocking socket that gets the changes of these multicast groups (RTMGRP_*)."""
    netlink = _open()
    netlink.bind((0, groups))
    netlink.setblocking(False)
    return netlink


def read_notices(netlink: socket.socket) -> Iterator[Message]:
    """Everything that waits on the socket; OSError ENOBUFS if the kernel had to drop some."""
    while True:
        try:
            data = netlink.recv(1 << 18)
        except BlockingIOError:
            return
        yield from _messages(data)


# ---- parts -----------------------------------------------------------------------------


def _open(netlink_family: int = ROUTE) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink_family)


def _send(netlink: socket.socket, kind: int, flags: int, body: bytes) -> None:
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _receive_dump(netlink: socket.socket) -> tuple[list[Message], bool]:
    found: list[Message] = []
    is_consistent = True
    while True:
        data = netlink.recv(1 << 18)
        for message in _messages(data):
            if message.type == _DONE:
                return found, is_consistent
            if message.type == _ERROR:
                _raise_if_error(message)
            found.append(message)
        (flags,) = struct.unpack_from("=H", data, 6)
        is_consistent &= not flags & _DUMP_INTERRUPTED


def _messages(data: bytes) -> Iterator[Message]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield Message(kind, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def _raise_if_error(message: Message) -> None:
    (number,) = struct.unpack_from("=i", message.body)
    if number:
        raise OSError(-number, os.strerror(-number))
