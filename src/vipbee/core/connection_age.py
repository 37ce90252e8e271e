# SPDX-License-Identifier: Apache-2.0
"""How long a connection is remembered: `lifetime()` of bpf/conntrack.h, for many entries.

The unit is whole seconds of CLOCK_MONOTONIC, as the datapath writes them; a test compares
the two. Pure: the caller says what time it is.
"""

from __future__ import annotations

import numpy as np

from vipbee.abi import ConntrackSeen
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.snapshot import Records

_TCP = 6
_STATES = np.array(["unconfirmed", "handshake", "established", "closing", "reset", "udp"])
UNCONFIRMED, HANDSHAKE, ESTABLISHED, CLOSING, RESET, UDP = range(len(_STATES))


def states(protocols: Records, values: Records) -> Records:
    """The state of each struct conntrack, as an index into `STATE_NAMES`."""
    client, backend = values["client_seen"], values["backend_seen"]
    either, both = client | backend, client & backend
    found = np.full(len(values), ESTABLISHED)
    found[client & ConntrackSeen.PACKET == 0] = HANDSHAKE
    found[either & ConntrackSeen.PACKET == 0] = UNCONFIRMED
    found[both & ConntrackSeen.FIN != 0] = CLOSING
    found[either & ConntrackSeen.RST != 0] = RESET
    found[protocols != _TCP] = UDP
    return found


STATE_NAMES: tuple[str, ...] = tuple(_STATES.tolist())


def remaining_s(protocols: Records, values: Records, now_s: int, lifetimes: Lifetimes) -> Records:
    """Seconds each struct conntrack still has; negative: as if absent."""
    by_state = np.zeros(len(STATE_NAMES), np.int64)
    by_state[[UNCONFIRMED, HANDSHAKE, CLOSING]] = lifetimes.transitory_s
    by_state[ESTABLISHED] = lifetimes.established_s
    by_state[RESET] = lifetimes.reset_s
    by_state[UDP] = lifetimes.udp_s
    return by_state[states(protocols, values)] - ages_s(values, now_s)


def ages_s(values: Records, now_s: int) -> Records:
    """Seconds since the last packet; -1 if another CPU's clock was ahead."""
    difference = np.uint32(now_s & 0xFFFFFFFF) - values["last_seen"]
    return np.asarray(difference.view(np.int32).astype(np.int64))


def reply_tuples(keys: Records, values: Records) -> Records:
    """The packet that each connection's backend answers with: its key in `nat`."""
    replies = np.zeros(len(keys), keys.dtype)
    replies["source"] = values["backend"]
    replies["destination"] = values["source"]
    replies["source_port"] = values["backend_port"]
    replies["destination_port"] = values["source_port"]
    replies["protocol"] = keys["protocol"]
    return replies
