# SPDX-License-Identifier: Apache-2.0
"""The one address type: 16 bytes, network order, IPv4 v4-mapped (::ffff:a.b.c.d).

Parsing is strict ASCII: Python's own `int()` and `isdigit()` accept full-width and
Arabic digits. Legacy leading zeros are decimal (R25, CVE-2021-29921).
"""

from __future__ import annotations

import re
import socket
from functools import lru_cache

V4_PREFIX = b"\0" * 10 + b"\xff\xff"
UNSPECIFIED_V4 = V4_PREFIX + b"\0" * 4
UNSPECIFIED_V6 = b"\0" * 16
LOOPBACK_V4 = V4_PREFIX + b"\x7f\0\0\1"
LOOPBACK_V6 = b"\0" * 15 + b"\1"

_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_V4 = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12}){3}", re.ASCII)


@lru_cache(maxsize=16384)  # a node's VIPs and the endpoints of what changes, not all
def parse_address(text: str) -> bytes:
    """Return the 16 bytes of an IPv4 or IPv6 address; raise ValueError otherwise.

    A v4-mapped IPv6 text is refused: which family it means is not clear, and
    Kubernetes rejects it too.
    """
    if ":" in text:
        try:
            packed = socket.inet_pton(socket.AF_INET6, text)
        except (OSError, ValueError):
            raise ValueError(f"{text!r} is not an IP address") from None
        if packed.startswith(V4_PREFIX):
            raise ValueError(f"{text!r} is an IPv4-mapped IPv6 address: write it as IPv4")
        return packed
    try:
        return V4_PREFIX + socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):  # ValueError: embedded NUL, lone surrogate
        pass
    if _V4.fullmatch(text):
        try:
            return V4_PREFIX + socket.inet_pton(socket.AF_INET, _LEADING_ZEROS.sub("", text))
        except OSError:
            pass
    raise ValueError(f"{text!r} is not an IP address")


def format_address(address: bytes) -> str:
    """Text of 16 address bytes: dotted quad if v4-mapped, RFC 5952 otherwise."""
    if address.startswith(V4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def format_endpoint(address: bytes, port: int) -> str:
    """`10.0.0.1:80` or `[2001:db8::1]:80`."""
    text = format_address(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def family_of(address: bytes) -> int:
    """4 or 6."""
    return 4 if address.startswith(V4_PREFIX) else 6
