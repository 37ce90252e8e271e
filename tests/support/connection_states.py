# SPDX-License-Identifier: Apache-2.0
"""What each side of a connection has sent, and how long it is remembered then by default."""

from __future__ import annotations

import pytest

from vipbee.abi import ConntrackSeen

TCP, UDP = 6, 17
ALIVE = ConntrackSeen.PACKET | ConntrackSeen.SYN
FIN = ALIVE | ConntrackSeen.FIN
RST = ALIVE | ConntrackSeen.RST

each_state = pytest.mark.parametrize(
    ("protocol", "client", "backend", "lifetime_s"),
    [
        (TCP, ALIVE, ALIVE, 7440),
        (TCP, ConntrackSeen.SYN, ALIVE, 240),
        (TCP, FIN, ALIVE, 7440),
        (TCP, FIN, FIN, 240),
        (TCP, RST, ALIVE, 10),
        (TCP, ALIVE, RST, 10),
        (UDP, ConntrackSeen.PACKET, ConntrackSeen.PACKET, 120),
    ],
)
"""D68-D91: RFC 5382, 4787 and 5508."""
