# SPDX-License-Identifier: Apache-2.0
"""Everything the agent can ask for, and the answers. The types are the first check.

A request says *that* something is to be done; with what (which object, cgroup, device
lists, files) the helper knows from the operator's configuration. So the agent's word decides
nothing but: which of the devices that qualify, and which of the configured files.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from vipbee.sources.files import FileState

PathBytes = Annotated[bytes, Meta(min_length=1, max_length=4096)]
Ifindex = Annotated[int, Meta(ge=1, lt=1 << 31)]
SweepProgram = Literal[
    "vipbee_sweep_outside", "vipbee_orphans_outside", "vipbee_sweep_pod", "vipbee_orphans_pod"
]
RoleFlags = Annotated[int, Meta(ge=0, le=15)]  # abi.DeviceFlag


class _Message(Struct, tag=True, forbid_unknown_fields=True):
    """Anything that is not exactly one of these is refused."""


# ---- requests --------------------------------------------------------------------------


class Load(_Message):
    """Load, pin and attach as configured, or bring back what somebody removed → Started."""


class Check(_Message):
    """Is everything still pinned and attached (F57) → Intact."""


class Attach(_Message):
    """Let exactly these devices run the packet programs → Hooked."""

    roles: Annotated[dict[Ifindex, RoleFlags], Meta(max_length=1 << 16)]


class ReleaseSockets(_Message):
    """End UDP sockets whose backend is gone (R111) → Released."""


class ReservePorts(_Message):
    """Keep NodePorts out of the node's source ports, as configured → Reserved."""


class TakeOver(_Message):
    """Look for what kube-proxy left and remove it, if that is configured.

    → Opened: a pipe, from which a takeover.outcome.Step can be read when it is done.
    """


class OpenSweep(_Message):
    """Start an iterator that sweeps → Opened: to read it takes no right."""

    program: SweepProgram
    unfinished: bool = False  # over the table of connections that are not established


class FileStatus(_Message):
    """→ Status. The path must be a configured one, as for the next two."""

    path: PathBytes


class ListDirectory(_Message):
    """→ Names."""

    path: PathBytes


class OpenFile(_Message):
    """Open for reading → Opened, with the fd."""

    path: PathBytes


Request = (
    Load
    | Check
    | Attach
    | ReleaseSockets
    | ReservePorts
    | TakeOver
    | OpenSweep
    | FileStatus
    | ListDirectory
    | OpenFile
)


# ---- answers ---------------------------------------------------------------------------


class Started(_Message):
    """What `Load` did; the fds of `maps` come with it, in their order."""

    adopted: bool  # False: maps are new and empty
    replaced: tuple[str, ...]  # programs attached anew or exchanged
    kept_sizes: dict[str, tuple[int, int]]  # map: (pinned, configured) where they differ
    packet_lb: bool  # the packet programs are pinned and may be attached
    packet_problem: str  # why they are not, although they were asked for
    cgroup: str
    took_ms: float
    removed_packet_hooks: int = 0  # of a packet layer that is switched off now
    maps: tuple[str, ...] = ()
    has_sweeps: bool = False  # the kernel took the iterators that sweep


class Intact(_Message):
    is_intact: bool


class Hooked(_Message):
    """As datapath.attach_tc.Attached. If not complete, ask again: it takes long."""

    changed: list[str]
    removed: int
    failures: dict[str, str]
    by: str
    is_complete: bool
    closed_loopback: str


class Released(_Message):
    sockets: int


class Reserved(_Message):
    was_written: bool  # the sysctl


class Status(_Message):
    state: FileState


class Names(_Message):
    names: tuple[bytes, ...]


class Opened(_Message):
    """The fd comes with it."""


class Failed(_Message):
    """Not done. `kind`: "environment", "kernel", "os", "value"; "refused": not allowed."""

    kind: str
    message: str
    detail: str = ""  # the remedy, or what the kernel said
    errno: int = 0


Answer = Started | Intact | Hooked | Released | Reserved | Status | Names | Opened | Failed

decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
encode = msgspec.msgpack.Encoder().encode
