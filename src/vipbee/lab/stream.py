# SPDX-License-Identifier: Apache-2.0
"""A client that never stops asking: proof that nothing is lost while things change.

    python -IS stream.py ADDRESS PORT HELD

Opens HELD long connections to an echo server, then for ever: one new connection with
one request, and one exchange on a held connection. A line on stdin is answered with
a JSON line of what happened since the last one; end of stdin ends it. Runs in a pod
as its own process, with the standard library only.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import Counter
from dataclasses import dataclass, field

TIMEOUT_S = 3.0
PAUSE_S = 0.0005


@dataclass
class Report:
    """`answers`: requests on new connections by the server that answered."""

    answers: Counter[str] = field(default_factory=Counter)
    held_exchanges: int = 0
    failures: list[str] = field(default_factory=list)


def ask(address: tuple[str, int]) -> str:
    """Connect, ask who is there, close; OSError if any of it fails."""
    with socket.create_connection(address, TIMEOUT_S) as connection:
        connection.sendall(b"whoami")
        answer = connection.recv(100).decode().split()
    if not answer:
        raise ConnectionError("closed without an answer")
    return answer[0]


def exchange(connection: socket.socket) -> None:
    connection.sendall(b"x")
    if connection.recv(1) != b"x":
        raise ConnectionError("held connection lost")


def run(address: tuple[str, int], held: int) -> None:
    connections = [socket.create_connection(address, TIMEOUT_S) for _ in range(held)]
    report, turn = Report(), 0
    while True:
        try:
            report.answers[ask(address)] += 1
            if connections:
                exchange(connections[turn % held])
                report.held_exchanges += 1
        except OSError as error:
            report.failures.append(str(error))
        turn += 1
        if select.select([sys.stdin], [], [], PAUSE_S)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps(vars(report)), flush=True)
            report = Report()


if __name__ == "__main__":
    run((sys.argv[1], int(sys.argv[2])), int(sys.argv[3]))
