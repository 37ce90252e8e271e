# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: the servers and clients of its namespaces, TCP, UDP and SCTP.

A server answers with its name and the address it sees, so that a client knows who
served it and as whom.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import threading
from collections.abc import Callable, Iterable

PORT = 8080
TIMEOUT_S = 5.0
TIMED_OUT = "ETIMEDOUT"
STREAM_TIMEOUT_S = 20.0
_KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM, "SCTP": socket.SOCK_STREAM}
_PROTOCOLS = {"SCTP": 132}


def attempt(action: Callable[[], object]) -> object:
    """What it returns, or the name of the error."""
    try:
        return action()
    except TimeoutError:
        return TIMED_OUT
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))


# ---- servers ---------------------------------------------------------------------------


def serve(name: str, addresses: Iterable[str], port: int = PORT, protocol: str = "") -> None:
    """Answer at these addresses, on TCP and UDP or on the protocol named, for ever."""
    for address in addresses:
        for each in (protocol,) if protocol else ("TCP", "UDP"):
            server = _socket(each, address)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            if each != "UDP":
                server.listen(16)
            target = _serve_datagrams if each == "UDP" else _serve_streams
            threading.Thread(target=target, args=(server, name), daemon=True).start()


def _serve_streams(server: socket.socket, name: str) -> None:
    while True:
        connection, peer = server.accept()
        who = f"{name} {peer[0]} {peer[1]}\n".encode()
        threading.Thread(target=_talk, args=(connection, who), daemon=True).start()


def _talk(connection: socket.socket, who: bytes) -> None:
    """Each line is a question.

    take <n>, n bytes   their hash in a line
    give <n>, n bytes   the same, then the bytes
    anything else       who it is
    """
    with connection, connection.makefile("rwb") as stream:
        try:
            for line in stream:
                order, _, size = line.partition(b" ")
                if order in (b"take", b"give"):
                    data = stream.read(int(size))
                    stream.write(hashlib.sha256(data).hexdigest().encode() + b"\n")
                    stream.write(data if order == b"give" else b"")
                else:
                    stream.write(who)
                stream.flush()
        except OSError:
            pass  # the client's business


def _serve_datagrams(server: socket.socket, name: str) -> None:
    while True:
        data, peer = server.recvfrom(65535)
        server.sendto(f"{name} {peer[0]} {peer[1]}\n".encode().ljust(len(data), b"."), peer)


# ---- clients: addresses as text, results as JSON has them ---------------------------------


class Sessions:
    """Connections that stay open between two questions, by number."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []

    def begin(self, address: str, port: int) -> int:
        self._open.append(_connect("TCP", address, port))
        return len(self._open) - 1

    def who(self, number: int) -> list[str]:
        """The server's name, the client's address and port as the server sees them."""
        return _ask(self._open[number], b"who\n")


def ask(protocol: str, address: str, port: int, size: int = 4) -> list[str]:
    """[server, client as the server sees it]; datagrams of `size` bytes, both ways."""
    with _connect(protocol, address, port) as asking:
        question = b"who\n".rjust(size, b"?") if protocol == "UDP" else b"who\n"
        answer = _ask(asking, question)
        return answer[:2]


def stream(address: str, port: int, size: int, *, back: bool = True) -> bool:
    """Whether `size` bytes reached a server, and came `back`, unchanged."""
    data = hashlib.shake_256(b"some bytes").digest(size)
    order = b"%s %d\n" % (b"give" if back else b"take", size)
    with (
        _connect("TCP", address, port, timeout_s=STREAM_TIMEOUT_S) as talking,
        talking.makefile("rb") as answers,
    ):
        talking.sendall(order + data)  # the server answers when it has all
        arrived = answers.readline().strip().decode()
        return arrived == hashlib.sha256(data).hexdigest() and (
            not back or answers.read(size) == data
        )


def _ask(asking: socket.socket, question: bytes) -> list[str]:
    asking.sendall(question)
    answer = asking.recv(65535)
    if asking.type == socket.SOCK_DGRAM and len(answer) < len(question):
        raise OSError(errno.EMSGSIZE, "the answer is shorter than the question")
    return answer.partition(b"\n")[0].decode().split()


def _connect(protocol: str, address: str, port: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    made = _socket(protocol, address)
    made.settimeout(timeout_s)
    try:
        made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return made


def _socket(protocol: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, _KINDS[protocol], _PROTOCOLS.get(protocol, 0))
