# SPDX-License-Identifier: Apache-2.0
"""Frames into and out of devices as they are on a wire: taps, tunnels, packet sockets.

For what a test run cannot make: VLAN tags that were taken off, packets whose headers are not
in one piece, devices without Ethernet header.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

from vipbee.datapath import syscall

_TUNSETIFF = 0x400454CA
_TUN, _TAP, _NO_PI, _VNET_HEADER = 0x1, 0x2, 0x1000, 0x4000
_TCX_INGRESS, _TCX_EGRESS = 46, 47
_ALL_PROTOCOLS = 0x0003
_NEEDS_SUM, _GSO_UDP_L4 = 1, 5  # linux/virtio_net.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_SETTINGS = (0x17, 0x24)  # transmit checksums, GSO


@contextlib.contextmanager
def attached(program_fd: int, ifindex: int, *, egress: bool = False) -> Iterator[None]:
    """By tcx link, which goes when its descriptor is closed. In the device's namespace."""
    kind = _TCX_EGRESS if egress else _TCX_INGRESS
    link = syscall.link_create_tcx(program_fd, ifindex, kind, first=True)
    try:
        yield
    finally:
        os.close(link)


@contextlib.contextmanager
def tunnel(name: str, *, tap: bool = False) -> Iterator[int]:
    """A tun device, or a tap whose frames begin with `in_pieces`'s header; its descriptor."""
    kind = _TAP | _VNET_HEADER if tap else _TUN
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), kind | _NO_PI))
        yield descriptor
    finally:
        os.close(descriptor)


def in_pieces(frame: bytes, linear: int) -> bytes:
    """For a tap: only `linear` bytes in the first piece, if all is more than a page."""
    return struct.pack("=BBHHHH", 0, 0, linear, 0, 0, 0) + frame


def udp_super_packet(frame: bytes, *, l4: int, segment: int) -> bytes:
    """For a tap: one datagram for each `segment` bytes of payload, sums left to the device.

    `l4`: where the UDP header is; its checksum must hold the pseudo header's sum.
    """
    return struct.pack("=BBHHHH", _NEEDS_SUM, _GSO_UDP_L4, l4 + 8, segment, l4, 6) + frame


def without_offloads(device: str) -> None:
    """What leaves by it is segmented and summed before, as for a card that can neither."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in _ETHTOOL_SETTINGS:
            value = (c.c_uint32 * 2)(command, 0)
            request = struct.pack("16sP16x", device.encode(), c.addressof(value))
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


@contextlib.contextmanager
def wire(device: str) -> Iterator[socket.socket]:
    """Everything that passes this device, and a way to send; in its namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as opened:
        opened.bind((device, _ALL_PROTOCOLS))
        opened.setblocking(False)
        yield opened


def first_frame(
    source: socket.socket | int, wanted: Callable[[bytes], bool], *, seconds: float = 10
) -> bytes:
    """The first one that is wanted; TimeoutError."""
    deadline = time.monotonic() + seconds
    descriptor = source if isinstance(source, int) else source.fileno()
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([descriptor], [], [], left)
        if ready and wanted(frame := os.read(descriptor, 65536)):
            return frame
    raise TimeoutError("no such frame")
