# SPDX-License-Identifier: Apache-2.0
"""The number by which BPF programs know the agent's own network namespace."""

from __future__ import annotations

import socket
import struct

_SO_NETNS_COOKIE = 71


def netns_cookie() -> int:
    """The cookie BPF sees for this namespace; 0 if the kernel cannot tell (below 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    (cookie,) = struct.unpack("=Q", raw)
    return int(cookie)
