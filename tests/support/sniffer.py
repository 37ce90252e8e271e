# SPDX-License-Identifier: Apache-2.0
"""Sees every packet of a lab's place, to prove that something did not leave it."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from types import TracebackType

from vipbee.lab import Place

ETH_P_ALL = 3
BUFFER_BYTES = 4 << 20


class Sniffer:
    """Packets on every device of the place's network namespace while the block runs."""

    def __init__(self, place: Place) -> None:
        def open_socket() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            made.setblocking(False)
            return made

        self._socket = place.inside(open_socket)  # it stays in that namespace

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def packets_with(self, address: str) -> int:
        """How many packets since the last call carry `address` anywhere."""
        wanted, found = ip_address(address).packed, 0
        while True:
            try:
                found += wanted in self._socket.recv(65536)
            except BlockingIOError:
                return found
