# SPDX-License-Identifier: Apache-2.0
"""A small TCP and UDP server: `whoami` is answered with who asks whom, the rest echoed.

    > whoami            > x
    < web-0 10.244.1.5 51234        < x

Runs as its own process in a pod: `python -IS echo.py NAME PORT`, on IPv4 and IPv6. By
path and with the standard library only, so that it starts in 20 ms. One thread, epoll.
"""

from __future__ import annotations

import selectors
import socket
import sys
from collections.abc import Callable

QUESTION = b"whoami"
BUFFER_SIZE = 65536
CONTROL_SIZE = 128
NO_INTERFACE = bytes(4)
IP_PKTINFO = 8  # socket.IP_PKTINFO is missing before Python 3.14

ControlMessage = tuple[int, int, bytes]


def answer(name: str, data: bytes, client: tuple[str, int]) -> bytes:
    if data.strip() == QUESTION:
        return f"{name} {client[0]} {client[1]}\n".encode()
    return data


def reply_source(control: ControlMessage) -> ControlMessage:
    """Turn where a datagram was sent to into where its answer comes from.

    A node has several addresses; without this the route to the client would choose.
    """
    level, kind, data = control
    if level == socket.IPPROTO_IPV6:  # struct in6_pktinfo: address, ifindex
        return level, kind, data[:16] + NO_INTERFACE
    return level, kind, NO_INTERFACE + data[4:]  # struct in_pktinfo: ifindex, local, destination


def serve(name: str, port: int) -> None:
    """Serve until killed."""
    selector = selectors.DefaultSelector()

    def accept(listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except OSError:  # reset before it was accepted
            return
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = (address[0], address[1])
        selector.register(connection, selectors.EVENT_READ, lambda peer: exchange(peer, client))

    def exchange(connection: socket.socket, client: tuple[str, int]) -> None:
        try:
            data = connection.recv(BUFFER_SIZE)
            if data:
                connection.sendall(answer(name, data, client))
                return
        except OSError:  # the client went away
            pass
        selector.unregister(connection)
        connection.close()

    def reply(server: socket.socket) -> None:
        data, control, _, address = server.recvmsg(BUFFER_SIZE, CONTROL_SIZE)
        text = answer(name, data, (address[0], address[1]))
        server.sendmsg([text], [reply_source(item) for item in control], 0, address)

    handlers: dict[socket.SocketKind, Callable[[socket.socket], None]] = {
        socket.SOCK_STREAM: accept,
        socket.SOCK_DGRAM: reply,
    }
    for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for kind, handler in handlers.items():
            selector.register(
                _listen(family, kind, (wildcard, port)), selectors.EVENT_READ, handler
            )
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            key.data(key.fileobj)


def _listen(
    family: socket.AddressFamily, kind: socket.SocketKind, address: tuple[str, int]
) -> socket.socket:
    server = socket.socket(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM and family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif kind == socket.SOCK_DGRAM:
        server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    server.bind(address)
    if kind == socket.SOCK_STREAM:
        server.listen(4096)
        server.setblocking(False)
    return server


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
