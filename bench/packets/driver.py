# SPDX-License-Identifier: Apache-2.0
"""Many packets through a tc program in one system call, see driver.bpf.c.

with Driver.up(directory) as driver:
    driver.run(program_fd, Drive(frame, flows=1 << 31, client=...), ifindex=3, repeat=10_000)
"""

from __future__ import annotations

import contextlib
import platform
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hatch_build import find_clang
from vipbee.datapath import syscall
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.syscall import PacketRun

FRAME_SIZE = 80
"""Bytes every frame must have at least: so many are written anew for each run."""

_SOURCE = Path(__file__).resolve().parent / "driver.bpf.c"
_LAYOUT = f"={FRAME_SIZE}s11I"


@dataclass(frozen=True, slots=True)
class Drive:
    """`struct drive`: a frame, and what makes it the packet of flow i. Addresses IPv4.

    Packet n is of flow n * stride % flows, from n = `first`, or of any below `flows`.
    Flow i: from client + (i >> client_shift), port + (i & port_mask), to
    server + i % servers. With `flows` 0 the frame goes as it is.
    """

    frame: bytes
    flows: int = 0
    first: int = 0
    is_random: bool = False
    stride: int = 1
    client: int = 0
    client_shift: int = 0
    port: int = 0
    port_mask: int = 0
    server: int = 0
    servers: int = 1
    is_reply: bool = False

    def pack(self) -> bytearray:
        assert len(self.frame) >= FRAME_SIZE
        return bytearray(
            struct.pack(
                _LAYOUT,
                self.frame[:FRAME_SIZE],
                *(self.first, self.flows, self.is_random, self.stride),
                *(self.client, self.client_shift),
                *(self.port, self.port_mask, self.server, self.servers, self.is_reply),
            )
        )


class Driver:
    """The loaded driver. Built by `up`."""

    def __init__(self, loaded: ObjectFile) -> None:
        self._loaded = loaded
        self.noop = loaded.program_fd("noop")

    @classmethod
    @contextlib.contextmanager
    def up(cls, directory: Path) -> Iterator[Driver]:
        """Compile into `directory` and load."""
        compiled = directory / "driver.bpf.o"
        subprocess.run(
            [
                find_clang(),
                *("-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-nostdinc"),
                *("-idirafter", "/usr/include"),
                *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"),
                *("-c", str(_SOURCE), "-o", str(compiled)),
            ],
            check=True,
        )
        with ObjectFile.open(compiled) as loaded:
            loaded.load()
            yield cls(loaded)

    def run(self, program_fd: int, drive: Drive, *, ifindex: int, repeat: int) -> PacketRun:
        """`repeat` packets through the program; verdict and frame are those of the last."""
        zero = bytearray(4)
        syscall.map_update(self._loaded.map_fd("drives"), zero, drive.pack())
        target = bytearray(struct.pack("=I", program_fd))
        syscall.map_update(self._loaded.map_fd("program"), zero, target)
        return syscall.prog_run_packet(
            self._loaded.program_fd("drive"), drive.frame, ifindex=ifindex, repeat=repeat
        )
