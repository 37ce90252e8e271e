# SPDX-License-Identifier: Apache-2.0
"""bpf(2), one function per command that vipbee uses. No policy, no state.

Must not import NumPy: the privileged process, which stays small, uses this too.
Buffers are writable NumPy arrays or bytearrays owned by the caller. Every function
raises OSError with the kernel's errno. The attribute block is always larger than the
kernel's: a zero tail is accepted by every version.
"""

from __future__ import annotations

import ctypes as c
import errno
import os
import platform
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

    Buffer = np.ndarray | bytearray

_NUMBER: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_LIBC = c.CDLL(None, use_errno=True)
_LIBC.syscall.restype = c.c_long

# enum bpf_cmd
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET, _PROG_RUN, _MAP_BY_ID, _INFO, _PROG_QUERY = 6, 7, 10, 14, 15, 16
_LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH = 24, 26, 27
_LINK_CREATE, _LINK_UPDATE, _ITER_CREATE, _LINK_DETACH = 28, 29, 33, 34

# enum bpf_attach_type
ATTACH_TYPES: Final = {
    "vipbee_connect4": 10,
    "vipbee_connect6": 11,
    "vipbee_post_bind4": 12,
    "vipbee_post_bind6": 13,
    "vipbee_sendmsg4": 14,
    "vipbee_sendmsg6": 15,
    "vipbee_recvmsg4": 19,
    "vipbee_recvmsg6": 20,
    "vipbee_getpeername4": 29,
    "vipbee_getpeername6": 30,
    "vipbee_sock_release": 34,
}
_ATTACH_ITER: Final = 28
TCX_INGRESS: Final = 46
TCX_EGRESS: Final = 47
LINK_TYPE_TCX: Final = 11

_F_REPLACE: Final = 4
_F_RDONLY: Final = 8
_F_BEFORE: Final = 8
_F_AFTER: Final = 16


def _address_of(buffer: Buffer) -> int:
    if isinstance(buffer, bytearray):
        return c.addressof(c.c_char.from_buffer(buffer))
    return int(buffer.ctypes.data)


def _bpf(command: int, attributes: bytearray) -> int:
    block = (c.c_char * len(attributes)).from_buffer(attributes)
    result = _LIBC.syscall(
        c.c_long(_NUMBER[platform.machine()]), c.c_int(command), block, c.c_uint(len(attributes))
    )
    if result < 0:
        number = c.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def _block(layout: str, *values: int, size: int = 128) -> bytearray:
    block = bytearray(size)
    struct.pack_into(layout, block, 0, *values)
    return block


# ---- maps ----------------------------------------------------------------------------


def map_lookup(fd: int, key: Buffer, value: Buffer) -> bool:
    """Fill `value`; False if the key is absent."""
    try:
        _bpf(_MAP_LOOKUP, _block("=IIQQQ", fd, 0, _address_of(key), _address_of(value), 0))
    except FileNotFoundError:
        return False
    return True


def map_update(fd: int, key: Buffer, value: Buffer, flags: int = 0) -> None:
    """Write one entry; E2BIG if the map is full."""
    _bpf(_MAP_UPDATE, _block("=IIQQQ", fd, 0, _address_of(key), _address_of(value), flags))


def map_delete(fd: int, key: Buffer) -> bool:
    """Delete one entry; False if it was absent."""
    try:
        _bpf(_MAP_DELETE, _block("=IIQQ", fd, 0, _address_of(key), 0))
    except FileNotFoundError:
        return False
    return True


def map_next_key(fd: int, key: Buffer | None, following: Buffer) -> bool:
    """Fill `following` with the key after `key` (None: the first); False at the end."""
    start = _address_of(key) if key is not None else 0
    try:
        _bpf(_MAP_NEXT, _block("=IIQQ", fd, 0, start, _address_of(following)))
    except FileNotFoundError:
        return False
    return True


class BatchError(OSError):
    """A batch stopped early; `done` entries were processed."""

    done: int = 0


def _batch(
    command: int, fd: int, keys: int, values: int, count: int, *, cursor: int = 0, out: int = 0
) -> int:
    # union bpf_attr.batch: in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags
    block = _block("=QQQQIIQQ", cursor, out, keys, values, count, fd, 0, 0)
    try:
        _bpf(command, block)
    except OSError as error:
        stopped = BatchError(error.errno, error.strerror)
        (stopped.done,) = struct.unpack_from("=I", block, 32)
        raise stopped from None
    (done,) = struct.unpack_from("=I", block, 32)
    return int(done)


def map_update_batch(fd: int, keys: np.ndarray, values: np.ndarray) -> int:
    """Write len(keys) entries; returns how many; BatchError says how far it came."""
    return _batch(_UPDATE_BATCH, fd, keys.ctypes.data, values.ctypes.data, len(keys))


def map_delete_batch(fd: int, keys: np.ndarray) -> int:
    """Delete len(keys) entries; stops with ENOENT at the first absent key."""
    return _batch(_DELETE_BATCH, fd, keys.ctypes.data, 0, len(keys))


def map_lookup_batch(
    fd: int, keys: np.ndarray, values: np.ndarray, cursor: bytearray, *, first: bool
) -> int:
    """Read up to len(keys) entries and advance `cursor` (>= 16 bytes, or a key).

    ENOENT, as BatchError with a valid `done`, ends the walk; ENOSPC asks for larger
    buffers.
    """
    where = _address_of(cursor)
    return _batch(
        _LOOKUP_BATCH,
        fd,
        keys.ctypes.data,
        values.ctypes.data,
        len(keys),
        cursor=0 if first else where,
        out=where,
    )


# ---- pins -----------------------------------------------------------------------------


def obj_pin(fd: int, path: str) -> None:
    name = bytearray(os.fsencode(path) + b"\0")
    _bpf(_OBJ_PIN, _block("=QII", _address_of(name), fd, 0))


def obj_get(path: str, *, read_only: bool = False) -> int:
    """Open a pinned map, program or link; returns a new fd. `read_only` is for maps."""
    name = bytearray(os.fsencode(path) + b"\0")
    flags = _F_RDONLY if read_only else 0
    return _bpf(_OBJ_GET, _block("=QII", _address_of(name), 0, flags))


# ---- information ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MapInfo:
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str  # cut to 15 characters by the kernel


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    type: int
    id: int
    tag: str
    map_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LinkInfo:
    type: int
    id: int
    program_id: int
    cgroup_id: int  # 0 once the cgroup is gone; only meaningful for cgroup links
    ifindex: int = 0  # 0 once the device is gone; only for tcx links


def _info(fd: int, buffer: bytearray) -> None:
    _bpf(_INFO, _block("=IIQ", fd, len(buffer), _address_of(buffer)))


def map_info(fd: int) -> MapInfo:
    buffer = bytearray(88)
    _info(fd, buffer)
    kind, number, key, value, entries, flags, name = struct.unpack_from("=IIIIII16s", buffer)
    return MapInfo(kind, number, key, value, entries, flags, name.rstrip(b"\0").decode())


def map_by_id(map_id: int) -> int:
    """A new fd for a map that something in the kernel holds; needs CAP_SYS_ADMIN."""
    return _bpf(_MAP_BY_ID, _block("=I", map_id))


def program_info(fd: int) -> ProgramInfo:
    ids = bytearray(4 * 64)
    buffer = bytearray(128)
    # struct bpf_prog_info: nr_map_ids at 52, map_ids at 56
    struct.pack_into("=IQ", buffer, 52, 64, _address_of(ids))
    _info(fd, buffer)
    kind, number = struct.unpack_from("=II", buffer)
    (count,) = struct.unpack_from("=I", buffer, 52)
    return ProgramInfo(kind, number, buffer[8:16].hex(), struct.unpack_from(f"={count}I", ids))


def link_info(fd: int) -> LinkInfo:
    buffer = bytearray(64)
    _info(fd, buffer)
    kind, number, program = struct.unpack_from("=III", buffer)
    if kind == LINK_TYPE_TCX:
        (ifindex,) = struct.unpack_from("=I", buffer, 16)
        return LinkInfo(kind, number, program, 0, ifindex)
    (cgroup,) = struct.unpack_from("=Q", buffer, 16)
    return LinkInfo(kind, number, program, cgroup)


# ---- links and runs -----------------------------------------------------------------------


def link_create_cgroup(program_fd: int, cgroup_fd: int, attach_type: int) -> int:
    """Attach beside the programs of others; returns the link's fd."""
    return _bpf(_LINK_CREATE, _block("=IIII", program_fd, cgroup_fd, attach_type, 0))


def link_create_tcx(program_fd: int, ifindex: int, attach_type: int, *, first: bool) -> int:
    """Attach to a device, before or after the programs of others; returns the link's fd.

    EINVAL below 6.6.
    """
    flags = _F_BEFORE if first else _F_AFTER
    return _bpf(_LINK_CREATE, _block("=IIII", program_fd, ifindex, attach_type, flags))


def tcx_links(ifindex: int, attach_type: int) -> tuple[int, ...]:
    """Ids of the tcx links of a device of this namespace, in the order they run."""
    programs, links = bytearray(4 * 128), bytearray(4 * 128)
    block = _block("=IIIIQI", ifindex, attach_type, 0, 0, _address_of(programs), 128)
    struct.pack_into("=Q", block, 40, _address_of(links))
    try:
        _bpf(_PROG_QUERY, block)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # nothing attached, no such device
            raise
        return ()
    (count,) = struct.unpack_from("=I", block, 24)
    return struct.unpack_from(f"={count}I", links)


def link_create_iter(program_fd: int, map_fd: int | None = None) -> int:
    """A link for an iterator program, over the elements of one map if given."""
    block = _block("=IIII", program_fd, 0, _ATTACH_ITER, 0)
    target = bytearray(16)  # union bpf_iter_link_info, zero-padded
    if map_fd is not None:
        struct.pack_into("=I", target, 0, map_fd)
        struct.pack_into("=QI", block, 16, _address_of(target), 4)
    return _bpf(_LINK_CREATE, block)


def link_update(link_fd: int, program_fd: int) -> None:
    """Replace the link's program in one step: every packet meets the old or the new one."""
    _bpf(_LINK_UPDATE, _block("=IIII", link_fd, program_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    _bpf(_LINK_DETACH, _block("=I", link_fd))


def iter_create(link_fd: int) -> int:
    """A file descriptor whose read() runs the iterator, in this thread's namespaces."""
    return _bpf(_ITER_CREATE, _block("=II", link_fd, 0))


@dataclass(frozen=True, slots=True)
class PacketRun:
    verdict: int  # what the program returned, signed
    packet: bytes
    nanoseconds: int  # of one run, the mean over `repeat`


_SK_BUFF_SIZE, _SK_BUFF_IFINDEX = 192, 40


def prog_run_packet(
    program_fd: int,
    packet: bytes,
    *,
    ifindex: int = 0,
    gso: tuple[int, int] = (0, 0),
    repeat: int = 1,
) -> PacketRun:
    """Run a tc program on one packet, in this thread's network namespace; needs no device.

    `gso` is (segments, bytes of each). A packet shorter than an Ethernet header is EINVAL.
    """
    data = bytearray(packet)
    out = bytearray(len(packet) + 4096)
    # struct __sk_buff: ifindex at 40, gso_segs at 164, gso_size at 176
    context = bytearray(_SK_BUFF_SIZE)
    struct.pack_into("=I", context, _SK_BUFF_IFINDEX, ifindex)
    struct.pack_into("=I", context, 164, gso[0])
    struct.pack_into("=I", context, 176, gso[1])
    # union bpf_attr.test: prog_fd, retval, data_size_in, data_size_out, data_in, data_out,
    # repeat, duration, ctx_size_in, ctx_size_out, ctx_in, ctx_out
    block = _block(
        "=IIIIQQIIIIQQ",
        *(program_fd, 0, len(data), len(out), _address_of(data), _address_of(out), repeat, 0),
        *(len(context), 0, _address_of(context), 0),
    )
    _bpf(_PROG_RUN, block)
    (verdict,) = struct.unpack_from("=i", block, 4)
    (size,) = struct.unpack_from("=I", block, 12)
    (nanoseconds,) = struct.unpack_from("=I", block, 36)
    return PacketRun(verdict, bytes(out[:size]), nanoseconds)
