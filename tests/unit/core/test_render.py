# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from tests.support.service_ports import BOTH, CLUSTER, DRAINING, LOCAL, backend, service_port
from vipbee.address import V4_PREFIX, parse_address
from vipbee.core.render import Backends, FrontendRow, SlotRange, frontend_keys, frontends
from vipbee.datapath.layouts import load_layouts
from vipbee.model import FrontendKey

LAYOUTS = load_layouts()


def test_a_frontend_key_is_in_network_order() -> None:
    key = FrontendKey(parse_address("10.96.0.10"), 80, 6)

    rendered = frontend_keys(LAYOUTS, [key])

    assert rendered.tobytes() == V4_PREFIX + b"\x0a\x60\x00\x0a" + b"\x00\x50" + b"\x06\x00"


def test_an_ipv6_frontend_key_is_its_sixteen_bytes() -> None:
    address = parse_address("2001:db8::1")

    rendered = frontend_keys(LAYOUTS, [FrontendKey(address, 443, 17)])

    assert rendered.tobytes() == address + b"\x01\xbb" + b"\x11\x00"


def test_a_frontend_holds_both_ranges_and_the_policy() -> None:
    row = FrontendRow(7, 10800, SlotRange(4, 3), SlotRange(2, 3), True, 2)

    value = frontends(LAYOUTS, [row])[0]

    assert value.item() == (7, 10800, (4, 3), (2, 3), 1, 2, 0)


def test_nothing_renders_to_nothing() -> None:
    assert len(frontends(LAYOUTS, [])) == 0
    assert len(frontend_keys(LAYOUTS, [])) == 0
    assert Backends([]).ranges(np.zeros(0, np.int64)) == []


def test_one_run_serves_both_sets() -> None:
    """R28, R29: only-Local, both, only-Cluster; the two ranges overlap in the middle."""
    port = service_port(
        "web",
        [1],
        [
            backend(1, CLUSTER),
            backend(2, BOTH),
            backend(3, LOCAL),
            backend(4, DRAINING),
            backend(5, BOTH),
        ],
    )

    rows = Backends([port])

    assert [rows.addresses[at][-1] for at in rows.slot_rows] == [3, 2, 5, 1]
    assert rows.ranges(np.array([10])) == [(SlotRange(11, 3), SlotRange(10, 3))]


def test_runs_of_several_ports_follow_each_other() -> None:
    first = service_port("a", [1], [1, 2])
    second = service_port("b", [2])
    third = service_port("c", [3], [backend(3, BOTH)])

    rows = Backends([first, second, third])

    assert rows.run_lengths.tolist() == [2, 0, 1]
    assert rows.slot_rows.tolist() == [0, 1, 2]
    assert rows.ranges(np.array([5, 0, 7])) == [
        (SlotRange(5, 2), SlotRange(0, 0)),
        (SlotRange(0, 0), SlotRange(0, 0)),
        (SlotRange(7, 1), SlotRange(7, 1)),
    ]


def test_a_backend_carries_its_service_and_protocol() -> None:
    rows = Backends([service_port("a", [1], [9])])

    value = rows.render(LAYOUTS, protocols=np.array([17]), service_ids=np.array([5]))[0]

    assert value["address"].tobytes() == V4_PREFIX + bytes([10, 244, 0, 9])
    assert (value["port"], value["flags"], value["protocol"]) == (8080, CLUSTER, 17)
    assert (value["service_id"], value["generation"]) == (5, 0)
