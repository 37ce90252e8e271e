# SPDX-License-Identifier: Apache-2.0
"""What the helper takes for a request: exactly the few there are (issue 4 §3)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipbee.abi import DeviceFlag
from vipbee.privileged.requests import (
    Attach,
    Check,
    FileStatus,
    ListDirectory,
    Load,
    OpenFile,
    OpenSweep,
    ReleaseSockets,
    Request,
    ReservePorts,
    TakeOver,
    decode_request,
    encode,
)

REQUESTS: list[Request] = [
    Load(),
    Check(),
    Attach({2: 1, 7: 6}),
    ReleaseSockets(),
    ReservePorts(),
    TakeOver(),
    OpenSweep("vipbee_sweep_pod", unfinished=True),
    FileStatus(b"/etc/vipbee/services.yaml"),
    ListDirectory(b"/etc/vipbee"),
    OpenFile(b"/etc/kubernetes/\xff"),
]
MALICIOUS: list[object] = [
    {},
    [],
    None,
    "Load",
    {"type": "Unload"},
    {"type": "Started"},  # an answer
    {"type": "Load", "bpf_root": "/tmp"},
    {"type": "Load", "path": b"/tmp/evil.o"},
    {"type": "Attach"},
    {"type": "Attach", "roles": {0: 1}},
    {"type": "Attach", "roles": {-1: 1}},
    {"type": "Attach", "roles": {1 << 31: 1}},
    {"type": "Attach", "roles": {2: 16}},
    {"type": "Attach", "roles": {2: "1"}},
    {"type": "Attach", "roles": {"eth0": 1}},
    {"type": "Attach", "roles": {2: 1}, "program": 7},
    {"type": "Attach", "roles": {2.5: 1}},
    {"type": "OpenSweep", "program": "vipbee_release"},
    {"type": "OpenSweep", "program": "../../etc"},
    {"type": "ReservePorts", "ports": "0-65535"},
    {"type": "TakeOver", "table": "filter"},
    {"type": "OpenFile", "path": b""},
    {"type": "OpenFile", "path": b"/" * 5000},
    {"type": "OpenFile", "path": 7},
    {"type": "OpenFile", "path": b"/x", "flags": 2},
    {"type": "ReleaseSockets", "netns": "/proc/1/ns/net"},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_arrives_as_it_was_made(request_: Request) -> None:
    assert decode_request(encode(request_)) == request_


@pytest.mark.parametrize("said", MALICIOUS, ids=repr)
def test_anything_else_is_no_request(said: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_request(msgspec.msgpack.encode(said))


def test_more_devices_than_a_node_has_are_no_request() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_request(msgspec.msgpack.encode({"type": "Attach", "roles": _many(70_000)}))


KEYS = st.sampled_from(["type", "roles", "path", "program"]) | st.text(max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.sampled_from([type(r).__name__ for r in REQUESTS])
    | st.binary(max_size=32)
    | st.text(max_size=16)
)
MESSAGES = st.dictionaries(
    KEYS, LEAVES | st.dictionaries(st.integers(-3, 1 << 33) | st.text(max_size=3), LEAVES)
)


@given(st.binary(max_size=200) | MESSAGES.map(msgspec.msgpack.encode))
def test_whatever_is_said_is_one_of_the_few_requests_or_refused(said: bytes) -> None:
    try:
        request = decode_request(said)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return

    assert type(request) in {type(known) for known in REQUESTS}
    match request:
        case Attach():
            assert all(0 < i < 1 << 31 and 0 <= flags <= 15 for i, flags in request.roles.items())
        case FileStatus() | ListDirectory() | OpenFile():
            assert 0 < len(request.path) <= 4096


@given(st.sampled_from(REQUESTS), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255))))
def test_a_damaged_request_is_one_of_the_few_or_refused(
    request: Request, damage: list[tuple[int, int]]
) -> None:
    said = bytearray(encode(request))
    for at, byte in damage:
        said[at % len(said)] = byte

    try:
        decoded = decode_request(bytes(said))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    assert type(decoded) in {type(known) for known in REQUESTS}


def _many(count: int) -> dict[int, Any]:
    return dict.fromkeys(range(1, count), 1)


def test_every_role_a_device_can_have_is_accepted() -> None:
    every = Attach({1: int(~DeviceFlag(0))})

    assert decode_request(encode(every)) == every
