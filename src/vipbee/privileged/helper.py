# SPDX-License-Identifier: Apache-2.0
"""The helper's life: answer one request after the other until the agent is gone.

Must not believe anything that comes over the channel: what is not a request ends it, and
with it the agent. Ignores the signals that stop the agent: it is needed until the end.
"""

from __future__ import annotations

import ctypes as c
import gc
import os
import signal
import sys
from collections.abc import Callable, Collection

import msgspec

from vipbee.config import AgentConfig
from vipbee.privileged import failures
from vipbee.privileged.allowed import AllowedFiles
from vipbee.privileged.channel import Channel, ChannelClosedError
from vipbee.privileged.child import in_child, reap_children, start_child
from vipbee.privileged.loader_process import LoaderProcess
from vipbee.privileged.operations import READABLE_MAPS, WRITABLE_MAPS, Operations
from vipbee.privileged.requests import (
    Answer,
    Attach,
    Check,
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
    TakeOver,
    decode_request,
    encode,
)

NAME = b"vipbee-helper"
_SET_NAME = 15


def run_helper(config: AgentConfig, channel: Channel, lock: int) -> None:
    """Serve `channel` until its other end is closed; in a process of its own.

    `lock` is the fd of `pins.exclusive`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    c.CDLL(None).prctl(_SET_NAME, NAME, 0, 0, 0)
    gc.freeze()  # pages stay shared with the agent's for as long as possible
    ready = LoaderProcess(config, channel.close)
    Helper(config, channel, ready, lock).serve()


class Helper:
    """Answers requests. `ready` is the process that is to load the datapath first."""

    def __init__(
        self, config: AgentConfig, channel: Channel, ready: LoaderProcess, lock: int
    ) -> None:
        self._channel = channel
        self._ready: LoaderProcess | None = ready
        self._config = config
        self._operations = Operations(config, self._load, lock)
        self._files = AllowedFiles(config, self._named_files)
        self._named: Collection[str] | None = None

    def serve(self) -> None:
        while True:
            try:
                message, fds = self._channel.receive(in_memory=False)
                for fd in fds:
                    os.close(fd)
                request = decode_request(message)
            except ChannelClosedError:
                return
            except (ValueError, msgspec.MsgspecError) as error:
                print(f"vipbee: the helper got no request it knows: {error}", file=sys.stderr)
                return
            reap_children()
            opened: list[int] = []
            try:
                answer = self._answer(request, opened)
            except Exception as error:
                answer = failures.failed(error)
            try:
                self._channel.send(encode(answer), opened)
            except ChannelClosedError:
                return
            finally:
                for fd in opened:
                    os.close(fd)

    def _answer(self, request: Request, opened: list[int]) -> Answer:
        """`opened` takes fds that go with the answer, and are closed then."""
        match request:
            case Load():
                return self._started(opened)
            case Check():
                return Intact(self._operations.is_intact())
            case Attach():
                done = self._operations.attach_some(request.roles)
                return Hooked(
                    done.changed,
                    done.removed,
                    done.failures,
                    done.by,
                    done.is_complete,
                    done.closed_loopback,
                )
            case ReleaseSockets():
                return Released(self._operations.release_sockets())
            case ReservePorts():
                return Reserved(self._operations.reserve_ports())
            case TakeOver():
                if not self._config.takeover:
                    raise failures.RefusedError("the agent was not started with --takeover")
                opened.append(start_child(self._take_over, self._channel.close))
                return Opened()
            case OpenSweep():
                sweeps = self._operations.sweeps
                opened.append(sweeps.open(request.program, unfinished=request.unfinished))
                return Opened()
            case FileStatus():
                return Status(self._files.state(os.fsdecode(request.path)))
            case ListDirectory():
                names = self._files.names(os.fsdecode(request.path))
                return Names(tuple(map(os.fsencode, names)))
            case OpenFile():
                opened.append(self._files.open(os.fsdecode(request.path)))
                return Opened()

    def _started(self, opened: list[int]) -> Started:
        started = self._operations.load()
        names = []
        for group, read_only in ((WRITABLE_MAPS, False), (READABLE_MAPS, True)):
            for name in group:
                fd = self._operations.maps.get("maps", name, read_only=read_only)
                if fd is not None:
                    opened.append(fd)
                    names.append(str(name))
        return msgspec.structs.replace(
            started, maps=tuple(names), has_sweeps=self._operations.sweeps.are_available()
        )

    def _take_over(self) -> bytes:
        return msgspec.msgpack.encode(self._operations.take_over())

    def _load(self) -> Started:
        process = self._ready or LoaderProcess(self._config, self._channel.close)
        self._ready = None
        return process.result()

    def _named_files(self) -> Collection[str]:
        """What the kubeconfig names, read once: to name other files takes a restart."""
        if self._named is None:
            self._named = read_named_files(self._config, self._channel.close)
        return self._named


def read_named_files(config: AgentConfig, close: Callable[[], None]) -> Collection[str]:
    """In a process that ends with it, as what reads a kubeconfig brings aiohttp."""

    def read() -> bytes:
        from vipbee.privileged.credentials import named_files

        return msgspec.msgpack.encode(named_files(config))

    return frozenset(msgspec.msgpack.decode(in_child(read, close), type=list[str]))
