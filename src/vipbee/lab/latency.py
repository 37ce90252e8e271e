# SPDX-License-Identifier: Apache-2.0
"""Latency of connect + one byte there and back, for several addresses side by side.

    python -IS latency.py CPU ROUNDS ADDRESS PORT [ADDRESS PORT …]

Interleaved: each round dials every address once, in turning order, so that whatever
else the machine does hits all alike. Pinned to one CPU. Prints a JSON list with one
object an address: sorted latencies in nanoseconds. Connections end by RST, so that
no TIME_WAIT socket slows the search for a port. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time

WARM_UP_ROUNDS = 200
TIMEOUT_S = 3.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


def measure(address: tuple[str, int]) -> int:
    """One connection; nanoseconds from before connect to after the byte came back."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        # In the kernel: settimeout() would add a poll() to every call.
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(TIMEOUT_S), 0)
        )
        start = time.perf_counter_ns()
        connection.connect(address)
        connection.send(b"x")
        if connection.recv(1) != b"x":
            raise ConnectionError("no echo")
        return time.perf_counter_ns() - start


def compare(addresses: list[tuple[str, int]], rounds: int) -> list[list[int]]:
    results: list[list[int]] = [[] for _ in addresses]
    count = len(addresses)
    for turn in range(WARM_UP_ROUNDS + rounds):
        for step in range(count):
            index = (turn + step) % count
            elapsed = measure(addresses[index])
            if turn >= WARM_UP_ROUNDS:
                results[index].append(elapsed)
    return [sorted(result) for result in results]


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    pairs = list(zip(sys.argv[3::2], map(int, sys.argv[4::2]), strict=True))
    print(json.dumps(compare(pairs, int(sys.argv[2]))))
