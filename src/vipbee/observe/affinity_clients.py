# SPDX-License-Identifier: Apache-2.0
"""How the key of an affinity entry names its client: by address, or by network namespace.

A namespace's cookie stands in the first two words of the address, the high one first, each in
the machine's own byte order: pick_backend() in bpf/sock_decide.h.
"""

from __future__ import annotations

import sys

from vipbee.abi import AffinityClient
from vipbee.address import format_address

_WORD = 4


def netns_key(cookie: int) -> bytes:
    """The 16 bytes that stand for this namespace."""
    words = divmod(cookie, 1 << 32)
    return b"".join(word.to_bytes(_WORD, sys.byteorder) for word in words) + bytes(2 * _WORD)


def client_name(kind: int, client: bytes) -> str:
    """`netns:<cookie>` or the address; `client` are the 16 bytes of the key."""
    if kind != AffinityClient.NETNS:
        return format_address(client)
    high, low = (int.from_bytes(client[at : at + _WORD], sys.byteorder) for at in (0, _WORD))
    return f"netns:{high << 32 | low}"
