# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: programs of the node connect through VIPs, by the socket layer.

Reports what it saw and asserts nothing, so that the host's tests name each fact.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from pyroute2 import IPRoute

from tests.kernels.guest_product import CGROUP, DEADLINE_S, STATE, kill_agent, start_agent

STATE_FILE = STATE / "sockets.yaml"
BACKENDS = {4: "10.244.1.2", 6: "fd00:10:244::2"}
SECOND_BACKEND = "10.244.1.3"
"""Serves from the moment the state file names it."""
VIPS = {4: "10.96.0.10", 6: "fd00:10:96::10"}
EMPTY_VIP = "10.96.0.66"
TCP_PORT, UDP_PORT, BACKEND_PORT = 80, 53, 8080
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def see() -> dict[str, object]:
    """What happens with an agent that serves sockets only."""
    add_addresses((*BACKENDS.values(), SECOND_BACKEND))
    seen: dict[str, object] = {}
    agent = start_agent("--no-packet-lb")
    (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
    with echo_servers():
        for version in FAMILIES:
            seen[f"tcp{version}"] = attempt(partial(tcp_exchange, version))
            seen[f"udp{version}"] = attempt(partial(udp_exchange, version))
            seen[f"udp{version}_connected"] = attempt(partial(udp_connected, version))
        seen["tcp4_mapped"] = attempt(tcp_mapped)
        seen["tcp_empty"] = attempt(partial(tcp_refused, EMPTY_VIP, TCP_PORT))
        seen["tcp_unknown_port"] = attempt(partial(tcp_refused, VIPS[4], 81))
        seen["udp_empty"] = attempt(udp_refused)
        seen["udp4_released"] = attempt(udp_released)
        kill_agent(agent)
        seen["tcp4_agent_killed"] = attempt(partial(tcp_exchange, 4))
    return seen


# ---- backends --------------------------------------------------------------------------


def add_addresses(addresses: Iterable[str]) -> None:
    loopback = socket.if_nametoindex("lo")
    with IPRoute() as route:
        for address in addresses:
            route.addr(
                "add", index=loopback, address=address, prefixlen=128 if ":" in address else 32
            )


@contextmanager
def echo_servers() -> Iterator[None]:
    sockets = []
    for address in (*BACKENDS.values(), SECOND_BACKEND):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        stream = socket.create_server((address, BACKEND_PORT), family=family)
        datagram = socket.socket(family, socket.SOCK_DGRAM)
        datagram.bind((address, BACKEND_PORT))
        sockets += [stream, datagram]
        threading.Thread(target=echo_stream, args=(stream,), daemon=True).start()
        threading.Thread(target=echo_datagram, args=(datagram,), daemon=True).start()
    try:
        yield
    finally:
        for each in sockets:
            each.close()


def echo_stream(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(64))


def echo_datagram(server: socket.socket) -> None:
    while True:
        data, client = server.recvfrom(64)
        server.sendto(data, client)


# ---- clients: each returns [payload, the peer as the application sees it] ------------------


def attempt(action: Callable[[], object]) -> object:
    try:
        return action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))


def client(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(family, kind)
    made.settimeout(10)
    return made


def tcp_exchange(version: int) -> list[object]:
    with client(FAMILIES[version], socket.SOCK_STREAM) as stream:
        stream.connect((VIPS[version], TCP_PORT))
        stream.sendall(b"hello")
        return [stream.recv(64).decode(), *stream.getpeername()[:2]]


def tcp_mapped() -> list[object]:
    with client(socket.AF_INET6, socket.SOCK_STREAM) as stream:
        stream.connect((f"::ffff:{VIPS[4]}", TCP_PORT))
        stream.sendall(b"hello")
        return [stream.recv(64).decode(), *stream.getpeername()[:2]]


def udp_exchange(version: int) -> list[object]:
    with client(FAMILIES[version], socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"hello", (VIPS[version], UDP_PORT))
        data, source = datagram.recvfrom(64)
        return [data.decode(), *source[:2]]


def udp_connected(version: int) -> list[object]:
    with client(FAMILIES[version], socket.SOCK_DGRAM) as datagram:
        datagram.connect((VIPS[version], UDP_PORT))
        datagram.send(b"hello")
        return [datagram.recv(64).decode(), *datagram.getpeername()[:2]]


def udp_released() -> list[object]:
    """Take the backend of a connected UDP socket away; what does the socket's owner see?"""
    state = STATE_FILE.read_text()
    with client(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.settimeout(DEADLINE_S)
        datagram.connect((VIPS[4], UDP_PORT))
        STATE_FILE.write_text(state.replace(BACKENDS[4], SECOND_BACKEND))
        first = attempt(partial(datagram.recv, 64))  # blocks until the socket is destroyed
    return [first, *udp_exchange(4)]


def tcp_refused(address: str, port: int) -> str:
    with client(socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.connect((address, port))
        return "connected"


def udp_refused() -> str:
    with client(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"hello", (EMPTY_VIP, UDP_PORT))
        return "sent"
