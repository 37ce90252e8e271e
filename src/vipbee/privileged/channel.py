# SPDX-License-Identifier: Apache-2.0
"""One end of the socket between agent and helper: whole messages, with fds.

SOCK_SEQPACKET keeps messages apart. What is larger than a message may be comes as a file in
memory: only from the helper, which never reads one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

MAX_MESSAGE_BYTES = 128 << 10
MAX_FDS = 64
_INLINE, _IN_MEMORY = b"\0", b"\1"


class ChannelClosedError(Exception):
    """The other process is gone."""


class Channel:
    """Closes every fd it got that the caller has not taken."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        return cls(one), cls(other)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Raise ChannelClosedError if nobody is there any more."""
        memory = None
        try:
            if len(message) >= MAX_MESSAGE_BYTES:
                memory = os.memfd_create("vipbee-answer", os.MFD_CLOEXEC)
                with open(memory, "wb", closefd=False) as file:
                    file.write(message)
                socket.send_fds(self._socket, [_IN_MEMORY], [memory, *fds], socket.MSG_NOSIGNAL)
            else:
                socket.send_fds(self._socket, [_INLINE, message], list(fds), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosedError from None
        finally:
            if memory is not None:
                os.close(memory)

    def receive(self, *, in_memory: bool) -> tuple[bytes, list[int]]:
        """The next message and its fds, which are the caller's; waits for it.

        Without `in_memory` a message in a file is refused (ValueError), as is one cut off.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES + 1, MAX_FDS)
        except ConnectionResetError:
            raise ChannelClosedError from None
        try:
            if not data:
                raise ChannelClosedError
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("a message or its fds did not arrive whole")
            kind, message = data[:1], data[1:]
            if kind == _INLINE:
                return message, fds
            if kind != _IN_MEMORY or not in_memory or not fds:
                raise ValueError("not a message of this channel")
            with open(fds.pop(0), "rb") as file:
                file.seek(0)
                return file.read(), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
