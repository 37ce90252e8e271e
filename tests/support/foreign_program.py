# SPDX-License-Identifier: Apache-2.0
"""A cgroup program of somebody else: always allows connect4, or always denies it.

Attached by link next to ours (multi), as other agents do it; gone when the block ends,
also if the test is killed. By bpf(2) itself: our own loader must not know it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from types import TracebackType

PROG_LOAD, OBJ_PIN, PROG_QUERY, LINK_CREATE = 5, 6, 16, 28
CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT = 18, 10
SYSCALL = {"x86_64": 321, "aarch64": 280}
MOVE_TO_R0, EXIT = 0xB7, 0x95
ATTRIBUTES_SIZE = 128

_libc = ctypes.CDLL(None, use_errno=True)


class ForeignProgram:
    def __init__(self, cgroup: Path, *, allows: bool) -> None:
        self._cgroup = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        self._program = _load(allows)
        self._link = bpf(
            LINK_CREATE, struct.pack("=IIII", self._program, self._cgroup, CGROUP_INET4_CONNECT, 0)
        )

    def __enter__(self) -> ForeignProgram:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fd in (self._link, self._program, self._cgroup):
            os.close(fd)

    def pin(self, path: Path) -> None:
        """Pin the link; the caller removes it."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        bpf(OBJ_PIN, struct.pack("=QI", ctypes.addressof(name), self._link))


def attached_programs(cgroup: Path) -> int:
    """How many programs, anybody's, run at connect4 of exactly this cgroup."""
    room = 64
    ids = (ctypes.c_uint32 * room)()
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        attributes = bytearray(
            struct.pack("=IIIIQI", fd, CGROUP_INET4_CONNECT, 0, 0, ctypes.addressof(ids), room)
        )
        bpf(PROG_QUERY, attributes)
    finally:
        os.close(fd)
    return sum(1 for program in ids if program)


def _load(allows: bool) -> int:
    code = struct.pack("=BBhiBBhi", MOVE_TO_R0, 0, 0, int(allows), EXIT, 0, 0, 0)
    instructions = ctypes.create_string_buffer(code)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(CGROUP_SOCK_ADDR, len(code) // 8),
        *(ctypes.addressof(instructions), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0, b"foreign", 0, CGROUP_INET4_CONNECT),
    )
    return bpf(PROG_LOAD, attributes)


def bpf(command: int, attributes: bytes | bytearray) -> int:
    """The system call itself; OSError with the kernel's errno."""
    block = (ctypes.c_char * ATTRIBUTES_SIZE)(*bytes(attributes))
    result: int = _libc.syscall(
        SYSCALL[platform.machine()], command, ctypes.byref(block), ATTRIBUTES_SIZE
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
