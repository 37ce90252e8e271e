# SPDX-License-Identifier: Apache-2.0
"""Backends for datapath tests: every backend address answers with its own name.

TCP port 8080 sends "<address>\\n" when it accepts and then echoes; UDP port 5353 answers
"<address> <datagram>". One process, one thread, all addresses.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import selectors
import socket
import struct
from collections.abc import Callable, Iterable

TCP_PORT = 8080
UDP_PORT = 5353

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP

_LIBC = c.CDLL(None, use_errno=True)


def port_of(protocol: int) -> int:
    """The backend port of a protocol."""
    return TCP_PORT if protocol == TCP else UDP_PORT


def family_of_text(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve_names(ready: Callable[[], None], addresses: Iterable[str]) -> None:
    """Serve until killed; calls `ready()` when every socket listens."""
    selector = selectors.DefaultSelector()
    for address in addresses:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            server = socket.socket(family_of_text(address), kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.setblocking(False)
            if kind == socket.SOCK_STREAM:
                server.bind((address, TCP_PORT))
                server.listen(1024)
                selector.register(server, selectors.EVENT_READ, _accepting(server, selector))
            else:
                server.bind((address, UDP_PORT))
                selector.register(server, selectors.EVENT_READ, _answering(server))
    ready()
    while True:
        for key, _ in selector.select():
            key.data()


def _accepting(server: socket.socket, selector: selectors.BaseSelector) -> Callable[[], None]:
    name = server.getsockname()[0].encode() + b"\n"

    def accept() -> None:
        connection, _ = server.accept()
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, _echoing(connection, selector))
        connection.send(name)

    return _forgiving(accept)


def _echoing(connection: socket.socket, selector: selectors.BaseSelector) -> Callable[[], None]:
    def echo() -> None:
        try:
            data = connection.recv(65536)
            if data:
                connection.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset by the client
        selector.unregister(connection)
        connection.close()

    return echo


def _answering(server: socket.socket) -> Callable[[], None]:
    name = server.getsockname()[0].encode() + b" "

    def answer() -> None:
        data, client = server.recvfrom(65536)
        server.sendto(name + data, client)

    return _forgiving(answer)


def _forgiving(action: Callable[[], None]) -> Callable[[], None]:
    """A client that is gone already is no reason to stop serving."""

    def act() -> None:
        with contextlib.suppress(OSError):
            action()

    return act


def asked(sock: socket.socket) -> str:
    """The name of the backend at the other end of a fresh TCP connection."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = sock.recv(256)
        if not chunk:
            raise ConnectionError("the backend closed the connection")
        data += chunk
    return data.decode().strip()


def backend_in(answer: bytes) -> str:
    """The name of the backend that sent a datagram."""
    return answer.split(b" ", 1)[0].decode()


def disconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC), which Python's own connect() cannot say."""
    unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
    if _LIBC.connect(sock.fileno(), unspecified, len(unspecified)):
        raise OSError(c.get_errno(), "connect(AF_UNSPEC)")
