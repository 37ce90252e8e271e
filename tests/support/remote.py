# SPDX-License-Identifier: Apache-2.0
"""Sockets of a process in a lab's place, used from the test as if they were its own.

    with Remote(lab.pod("client-1")) as remote:
        tcp = remote.tcp()
        tcp.connect(("10.96.0.20", 7000))     # raises what it raised there
        assert tcp.getpeername() == ("10.96.0.20", 7000)

`Place.inside` will not do: it enters the namespace but not the cgroup, so no hook runs.
"""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any

from tests.support import remote_child
from vipbee.lab import Place

Address = tuple[str, int]


class RemoteSocket:
    """The methods of socket.socket that tests need; addresses come back without flow label."""

    def __init__(self, remote: Remote, family: str, kind: str) -> None:
        self._remote = remote
        self._handle: int = remote.call(None, "make", family, kind)

    def connect(self, address: Address) -> None:
        self._call("connect", address)

    def send(self, data: bytes) -> None:
        self._call("send", data)

    def recv(self, size: int = 65536) -> bytes:
        data: bytes = self._call("recv", size)
        return data

    def sendto(self, data: bytes, address: Address) -> None:
        self._call("sendto", data, address)

    def recvfrom(self) -> tuple[bytes, Address]:
        data, address = self._call("recvfrom", 65536)
        return data, address[:2]

    def getpeername(self) -> Address:
        name: Address = self._call("getpeername")[:2]
        return name

    def getsockname(self) -> Address:
        name: Address = self._call("getsockname")[:2]
        return name

    def bind(self, address: Address) -> None:
        self._call("bind", address)

    def listen(self) -> None:
        self._call("listen", 1)

    def settimeout(self, timeout_s: float) -> None:
        self._call("settimeout", timeout_s)

    def ask(self) -> str:
        """Ask the echo server over the connected socket for its name."""
        return self.whoami()[0]

    def whoami(self) -> tuple[str, str]:
        """Name of the echo server and the address it sees as ours."""
        self.send(b"whoami")
        name, source, _ = self.recv().decode().split()
        return name, source

    def ask_at(self, address: Address) -> tuple[str, Address]:
        """Ask with an unconnected socket: the server's name, and where the answer came from."""
        self.sendto(b"whoami", address)
        answer, source = self.recvfrom()
        return answer.decode().split()[0], source

    def close(self) -> None:
        self._remote.call(None, "close", self._handle)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._remote.call(self._handle, method, *arguments)


class Remote:
    """A process in `place`; ends with the `with` block, and with it its sockets."""

    def __init__(self, place: Place) -> None:
        argv = [sys.executable, "-IS", remote_child.__file__]
        self._process = subprocess.Popen(
            place.command(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def tcp(self, family: int = 4) -> RemoteSocket:
        """`family`: 4 or 6."""
        return RemoteSocket(self, _family(family), "SOCK_STREAM")

    def udp(self, family: int = 4) -> RemoteSocket:
        return RemoteSocket(self, _family(family), "SOCK_DGRAM")

    def who(self, address: Address, protocol: str = "tcp") -> str:
        """Ask the echo server there over a new socket: its name, or the error's (ECONNREFUSED)."""
        family = 6 if ":" in address[0] else 4
        made = self.tcp(family) if protocol == "tcp" else self.udp(family)
        try:
            made.connect(address)
            return made.ask()
        except TimeoutError:
            return "ETIMEDOUT"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            made.close()

    def call(self, handle: int | None, method: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((handle, method, arguments), self._process.stdin)
        self._process.stdin.flush()
        is_good, result = pickle.load(self._process.stdout)
        if not is_good:
            raise result
        return result


def _family(family: int) -> str:
    return {4: "AF_INET", 6: "AF_INET6"}[family]
