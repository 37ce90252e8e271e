# SPDX-License-Identifier: Apache-2.0
"""The shipped packet programs under BPF_PROG_TEST_RUN in a namespace like the model's lab.

    with Bench.up() as bench:
        outcome = bench.send(Hook.UPLINK_IN, "up0", frame)   # raises DisagreementError

`send` runs the C and the model and compares verdict, bytes and reason counters.
Nothing leaves: the devices are one end of veth pairs whose peers are down.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import fcntl
import os
import platform
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.packet_model.lab import BY_FAMILY, lab_world, without_backend
from tests.support.packet_model.model import Hook, Model
from tests.support.packet_model.outcome import Action, DisagreementError, Observed, Outcome
from tests.support.packet_model.program import STATE_MAPS, Tables
from tests.support.packet_model.wire import Endpoint
from vipbee.abi import Reason
from vipbee.datapath import syscall
from vipbee.datapath.btf import OBJECT_PATH
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.libbpf import libbpf
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.programs import PACKET_PROGRAMS

_LIBC = c.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_TEST_RUN = 10
_SK_BUFF_SIZE, _CAME_IN_AT, _IFINDEX_AT, _GSO_SIZE_AT = 192, 36, 40, 176
_CHECKSUM_COMPLETE = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE
_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_SYSCALL = _LIBC.syscall
_SYSCALL.argtypes = (c.c_long, c.c_int, c.c_void_p, c.c_uint)
_SYSCALL.restype = c.c_long
_DEVICES = ("up0", "up1", "pod0", "pod1")
_ACTIONS = {0xFFFFFFFF: Action.PASS, 0: Action.PASS, 2: Action.DROP, 7: Action.REDIRECT}

SIZES = {"frontends": 4096, "addresses": 4096, "slots": 4096, "backends": 4096, "affinity": 65536}
CONFIG = {"packet_lb": 1, "has_coarse_clock": 1, "has_fib_skip_neigh": 1, "has_fib_mtu": 1}


@dataclass(frozen=True, slots=True)
class Run:
    """What BPF_PROG_TEST_RUN gave back."""

    code: int
    frame: bytes


class Bench:
    """See the module. Built by `up`; the calling thread is in the namespace meanwhile."""

    def __init__(self, datapath: ObjectFile, ifindexes: dict[str, int]) -> None:
        self.datapath = datapath
        self.ifindexes = ifindexes
        self.tables = Tables(load_layouts(), datapath.map_fd)
        self.model = Model(lab_world(ifindexes))
        self.now = 100_000  # the model's clock; the kernel's is moved by ageing entries
        self._runner = TestRunner()
        self._program_fds = {hook: datapath.program_fd(f"vipbee_{hook}") for hook in Hook}
        self._reasons_fd = datapath.map_fd("reasons")
        count, cpus = len(Reason) + 1, libbpf().libbpf_num_possible_cpus()  # type: ignore[operator]
        self._reason_buffers = (
            np.zeros(count, dtype=np.uint32),
            np.zeros((count, cpus), dtype=np.uint64),
        )
        self._cursor = bytearray(16)
        self._reasons_raw = self._fetch_reasons().copy()
        self.tables.program(self.model.world)

    @classmethod
    @contextlib.contextmanager
    def up(
        cls, *, path: Path = OBJECT_PATH, sizes: dict[str, int] | None = None, **config: int
    ) -> Iterator[Bench]:
        """`path`: another object than the shipped one."""
        with _namespace() as ifindexes, ObjectFile.open(path) as datapath:
            datapath.keep_programs([name for name in PACKET_PROGRAMS if "_l3" not in name])
            datapath.configure(**{**CONFIG, **config})
            states = dict.fromkeys(STATE_MAPS, 65536)
            datapath.set_max_entries({**SIZES, **states, **(sizes or {})})
            datapath.load()
            yield cls(datapath, ifindexes)

    def reset(self) -> None:
        """No connections, the lab's Services, counters from here."""
        self.tables.clear()
        self.tables.remove_frontends(self.model.world)
        self.model = Model(lab_world(self.ifindexes))
        self.tables.program(self.model.world)
        self._reasons_raw = self._fetch_reasons().copy()

    def send(self, hook: Hook, device: str, frame: bytes, *, own: bool = False) -> Outcome:
        """Through both; the rule that the outcome falls under. `own`: see `TestRunner`."""
        observed = self.run(hook, device, frame, own=own)
        ifindex = self.ifindexes[device]
        try:
            return self.model.step(hook, ifindex, frame, self.now, observed, own=own)
        except DisagreementError as error:
            raise DisagreementError(f"{hook} {device} {frame.hex()}\n{error}") from None

    def run(
        self,
        hook: Hook,
        device: str,
        frame: bytes,
        *,
        summed: bool = False,
        own: bool = False,
    ) -> Observed:
        """Through the C alone. `summed`, `own`: see `TestRunner`."""
        ran = self._runner.run(
            self._program_fds[hook], frame, self.ifindexes[device], summed=summed, own=own
        )
        return Observed(_ACTIONS[ran.code], ran.frame, self._moved_reasons())

    def counted(self, reason: Reason) -> int:
        return int(self._fetch_reasons()[reason].sum())

    def remove_backend(self, backend: Endpoint, *, gone: bool = True) -> None:
        """Delete an endpoint of the lab (`gone`), or let it terminate."""
        world = without_backend(self.model.world, backend, gone=gone)
        self.tables.remove_frontends(world)
        self.model.change(world)
        self.tables.program(world)

    def wait(self, seconds: int) -> None:
        """Let time pass for both."""
        self.now += seconds
        self.tables.shift_clock(seconds)

    def _moved_reasons(self) -> dict[Reason, int]:
        """What was counted since the last call. Most packets count nothing: told at a glance."""
        raw, before = self._reason_buffers[1], self._reasons_raw
        self._fetch_reasons()
        if raw.data == before.data:
            return {}
        moved = (raw - before).sum(axis=1)
        self._reasons_raw = raw.copy()
        return {Reason(int(n)): int(moved[n]) for n in np.flatnonzero(moved)}

    def _fetch_reasons(self) -> np.ndarray:
        """Counts by reason and CPU."""
        keys, values = self._reason_buffers
        try:
            syscall.map_lookup_batch(self._reasons_fd, keys, values, self._cursor, first=True)
        except syscall.BatchError as error:
            if error.done != len(keys):
                raise
        return values


class TestRunner:
    """BPF_PROG_TEST_RUN of tc programs; its buffers are made once, for millions of runs."""

    __test__ = False

    def __init__(self) -> None:
        self._in, self._out = (c.c_char * 65536)(), (c.c_char * 65536)()
        self._context = (c.c_char * _SK_BUFF_SIZE)()
        self._attributes = (c.c_char * 128)()
        self._input, self._output = memoryview(self._in), memoryview(self._out)
        # union bpf_attr.test: fd, retval, sizes in and out, data in and out, repeat, duration,
        # context sizes in and out, context in and out, flags
        self._layout = struct.Struct("=IIIIQQIIIIQQI")
        self._results = struct.Struct("=IIII")

    def run(
        self,
        program_fd: int,
        frame: bytes,
        ifindex: int,
        *,
        gso_size: int = 0,
        summed: bool = False,
        own: bool = False,
    ) -> Run:
        """Raises OSError where the kernel refuses the frame.

        `own`: of a socket of this node; else it came in by a device.
        `summed`: as from a card that sums what it receives (CHECKSUM_COMPLETE); EBADMSG if the
        sum that the program leaves is not the packet's. Linux 6.11.
        """
        c.memmove(self._in, frame, len(frame))
        struct.pack_into("=I", self._context, _CAME_IN_AT, 0 if own else ifindex)
        struct.pack_into("=I", self._context, _IFINDEX_AT, ifindex)
        struct.pack_into("=I", self._context, _GSO_SIZE_AT, gso_size)
        self._layout.pack_into(
            self._attributes,
            0,
            program_fd,
            0,
            len(frame),
            len(self._out),
            c.addressof(self._in),
            c.addressof(self._out),
            1,
            0,
            _SK_BUFF_SIZE,
            0,
            c.addressof(self._context),
            0,
            _CHECKSUM_COMPLETE if summed else 0,
        )
        if _SYSCALL(_BPF, _TEST_RUN, c.addressof(self._attributes), len(self._attributes)) < 0:
            number = c.get_errno()
            raise OSError(number, os.strerror(number))
        _, code, _, size = self._results.unpack_from(self._attributes)
        return Run(code, self._output[:size].tobytes())


@contextlib.contextmanager
def _namespace() -> Iterator[dict[str, int]]:
    """The lab's devices and routes; this thread is inside. Leftovers of a killed run go first."""
    with _claimed_name() as name, open("/proc/thread-self/ns/net") as before:
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            subprocess.run(
                ["ip", "-n", name, "-batch", "-"], input=_commands(), text=True, check=True
            )
            with open(f"/run/netns/{name}") as inside:
                _enter(inside.fileno())
            for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", switch).write_text("1")  # bpf_fib_lookup() asks for it
            yield {device: _ifindex(device) for device in ("lo", *_DEVICES)}
        finally:
            _enter(before.fileno())
            subprocess.run(["ip", "netns", "del", name], check=True)


def _commands() -> str:
    v4, v6 = BY_FAMILY[4], BY_FAMILY[6]
    lines = ["link set lo up"]
    for number, device in enumerate(_DEVICES):
        lines += [
            f"link add {device} address 02:00:00:00:00:{number + 16:02x} type veth peer name "
            f"{device}p",
            f"link set {device}p up",
            f"link set {device} up",
        ]
    for family, bits in ((v4, 24), (v6, 64)):
        nodad = " nodad" if family is v6 else ""
        full = 32 if family is v4 else 128
        lines += [
            f"addr add {family.node}/{bits} dev up0{nodad}",
            f"addr add {family.second_node}/{bits} dev up1{nodad}",
        ]
        for router, device in ((family.router, "up0"), (_second_router(family.second_node), "up1")):
            lines.append(f"neigh add {router} lladdr 02:00:00:00:01:01 dev {device} nud permanent")
        lines += [
            f"route add {family.pods[0]}/{full} dev pod0",
            f"route add {family.pods[1]}/{full} dev pod1",
            f"route add {_network(family.remotes[0])}/{bits} via {family.router} dev up0",
            f"route add {_network(family.remotes[1])}/{bits} via "
            f"{_second_router(family.second_node)} dev up1",
            f"route add {'::/0' if family is v6 else 'default'} via {family.router} dev up0",
        ]
        for pod, device in zip(family.pods, ("pod0", "pod1"), strict=True):
            lines.append(f"neigh add {pod} lladdr 02:00:00:00:01:02 dev {device} nud permanent")
    return "\n".join(lines)


def _second_router(address: str) -> str:
    return address + "fe" if ":" in address else address + "00"


def _network(address: str) -> str:
    return address.rpartition(":")[0] + ":" if ":" in address else address.rpartition(".")[0] + ".0"


def _ifindex(name: str) -> int:
    return socket.if_nametoindex(name)


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET):
        raise OSError(c.get_errno(), "setns")


@contextlib.contextmanager
def _claimed_name() -> Iterator[str]:
    """A name nobody else uses now, low numbers first: so the next run finds leftovers."""
    for number in range(64):
        fd = os.open(f"/run/lock/vipbee-bench-{number}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            yield f"vipbee-bench-{number}"
        finally:
            os.close(fd)
        return
    raise RuntimeError("64 test runs at once")
