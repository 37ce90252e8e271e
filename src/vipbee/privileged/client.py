# SPDX-License-Identifier: Apache-2.0
"""The agent's end: `Privileges` and `Files`, done by the helper."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import msgspec

from vipbee.datapath.attach_tc import Attached
from vipbee.datapath.device_roles import Role
from vipbee.privileged import failures
from vipbee.privileged.channel import Channel, ChannelClosedError
from vipbee.privileged.failures import HelperGoneError, RefusedError
from vipbee.privileged.requests import (
    Answer,
    Attach,
    Check,
    Failed,
    FileStatus,
    Hooked,
    Intact,
    ListDirectory,
    Load,
    Names,
    Opened,
    OpenFile,
    OpenSweep,
    Released,
    ReleaseSockets,
    Request,
    Reserved,
    ReservePorts,
    Started,
    Status,
    SweepProgram,
    TakeOver,
    decode_answer,
    encode,
)
from vipbee.sources.files import OWN_RIGHTS, FileState, PathLike
from vipbee.takeover.outcome import Step

_A = TypeVar("_A", bound=Answer)
_R = TypeVar("_R")


class HandedMaps:
    """The fds that came with the last `Started`; a `pins.Pinned`."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._lock = threading.Lock()  # a scrape of the metrics asks in its thread

    def get(self, kind: str, name: str) -> int | None:
        with self._lock:
            fd = self._fds.get(name) if kind == "maps" else None
            return os.dup(fd) if fd is not None else None

    def replace(self, names: Sequence[str], fds: Sequence[int]) -> None:
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds = dict(zip(names, fds, strict=True))


class RemoteSweeps:
    """Iterators that the helper opens and we read."""

    def __init__(self, helper: Helper) -> None:
        self.has_sweeps = False
        self._helper = helper

    def open(self, program: str, *, unfinished: bool = False) -> int:
        return self._helper.open_sweep(program, unfinished=unfinished)

    def are_available(self) -> bool:
        return self.has_sweeps


class Helper:
    """Asks the process at the other end of `channel`; from any thread, one at a time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self.maps = HandedMaps()
        self.sweeps = RemoteSweeps(self)

    # ---- Privileges ------------------------------------------------------------------

    def load(self) -> Started:
        started, fds = self._ask(Load(), Started)
        self.maps.replace(started.maps, fds)
        self.sweeps.has_sweeps = started.has_sweeps
        return started

    def is_intact(self) -> bool:
        return self._ask(Check(), Intact)[0].is_intact

    def attach(self, roles: Mapping[int, Role]) -> Attached:
        wanted = {number: int(role.flags) for number, role in roles.items() if role.is_attached}
        all_done = Attached()
        while True:  # in steps, so that others get their turn
            done, _ = self._ask(Attach(wanted), Hooked)
            all_done.changed += done.changed
            all_done.removed += done.removed
            all_done.failures |= done.failures
            all_done.by = done.by
            all_done.closed_loopback = done.closed_loopback
            if done.is_complete:
                return all_done

    def release_sockets(self) -> int:
        return self._ask(ReleaseSockets(), Released)[0].sockets

    def reserve_ports(self) -> bool:
        return self._ask(ReservePorts(), Reserved)[0].was_written

    def take_over(self) -> Step:
        _, (pipe,) = self._ask(TakeOver(), Opened)
        with open(pipe, "rb") as file:
            said = file.read()
        if not said:
            return Step(error="the process that looked for them has died")
        return msgspec.msgpack.decode(said, type=Step)

    def open_sweep(self, program: str, *, unfinished: bool) -> int:
        _, (fd,) = self._ask(OpenSweep(cast(SweepProgram, program), unfinished), Opened)
        return fd

    # ---- files -----------------------------------------------------------------------

    def state(self, path: PathLike) -> FileState:
        return self._ask(FileStatus(os.fsencode(path)), Status)[0].state

    def names(self, directory: PathLike) -> list[str]:
        answer, _ = self._ask(ListDirectory(os.fsencode(directory)), Names)
        return [os.fsdecode(name) for name in answer.names]

    def open(self, path: PathLike) -> int:
        _, (fd,) = self._ask(OpenFile(os.fsencode(path)), Opened)
        return fd

    # ---- the channel -----------------------------------------------------------------

    def _ask(self, request: Request, wanted: type[_A]) -> tuple[_A, list[int]]:
        with self._lock:
            try:
                self._channel.send(encode(request))
                message, fds = self._channel.receive(in_memory=True)
            except (ChannelClosedError, ValueError):
                raise HelperGoneError(
                    "the privileged helper process has ended; what it said is in the log"
                ) from None
        answer = decode_answer(message)
        if isinstance(answer, Failed):
            raise failures.error_of(answer)
        assert isinstance(answer, wanted)
        return answer, fds


class SharedFiles:
    """`Files` with our own rights, and where those do not suffice with the helper's.

    Once refused in a directory, the helper is asked at once there.
    """

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._closed: set[str] = set()  # directories

    def state(self, path: PathLike) -> FileState:
        if not self._is_closed(path):
            try:
                return OWN_RIGHTS.state(path)
            except PermissionError:
                self._closed.add(os.path.dirname(path))
        return _permitted(self._helper.state, path)

    def names(self, directory: PathLike) -> list[str]:
        try:
            return OWN_RIGHTS.names(directory)
        except PermissionError:
            return _permitted(self._helper.names, directory)

    def open(self, path: PathLike) -> int:
        if not self._is_closed(path):
            try:
                return OWN_RIGHTS.open(path)
            except PermissionError:
                pass  # of this very file: others beside it may be readable
        return _permitted(self._helper.open, path)

    def _is_closed(self, path: PathLike) -> bool:
        return os.path.dirname(path) in self._closed


def _permitted(ask: Callable[[PathLike], _R], path: PathLike) -> _R:
    """What the helper refuses is to the source a file that it may not read."""
    try:
        return ask(path)
    except RefusedError as error:
        raise PermissionError(errno.EACCES, str(error)) from None
