# SPDX-License-Identifier: Apache-2.0
"""What the echo server answers."""

from __future__ import annotations

import socket

import pytest

from vipbee.lab.echo import IP_PKTINFO, answer, reply_source


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"whoami\n", b"web-0 10.244.1.5 40000\n"),
        (b"whoami", b"web-0 10.244.1.5 40000\n"),
        (b"x", b"x"),
        (b"whoami?", b"whoami?"),
    ],
)
def test_whoami_is_answered_and_the_rest_echoed(data: bytes, expected: bytes) -> None:
    assert answer("web-0", data, ("10.244.1.5", 40000)) == expected


def test_answers_leave_from_the_address_that_was_asked() -> None:
    local4, to4 = bytes([172, 30, 0, 1]), bytes([172, 30, 0, 9])
    to6 = bytes(15) + b"\x01"

    ipv4 = reply_source((socket.IPPROTO_IP, IP_PKTINFO, b"\x07\0\0\0" + local4 + to4))
    ipv6 = reply_source((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, to6 + b"\x07\0\0\0"))

    assert ipv4[2] == bytes(4) + local4 + to4
    assert ipv6[2] == to6 + bytes(4)
