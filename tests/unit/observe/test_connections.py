# SPDX-License-Identifier: Apache-2.0
"""What `nat list` says about entries of no Service."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.support.readings import ReadableTables
from vipbee.abi import ConntrackFlag, MapName
from vipbee.address import parse_address
from vipbee.core.snapshot import Records, Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.observe.connections import Filter, reverse_halves


class OneDirectConnection:
    """Tables with one tuple that is left to a connection past us."""

    def __init__(self) -> None:
        self._tables = ReadableTables()
        layouts = load_layouts()
        self._keys, self._values = np.zeros(1, layouts["flow_tuple"]), np.zeros(1, layouts["nat"])
        client, backend = parse_address("192.0.2.7"), parse_address("10.244.1.2")
        for tuple_, source, destination in (
            (self._keys, (backend, 8080), (client, 40000)),
            (self._values["original"], (client, 40000), (backend, 8080)),
        ):
            tuple_["source"]["word"] = np.frombuffer(source[0], ">u4")
            tuple_["destination"]["word"] = np.frombuffer(destination[0], ">u4")
            tuple_["source_port"], tuple_["destination_port"] = source[1], destination[1]
            tuple_["protocol"] = 6
        self._values["flags"] = ConntrackFlag.DIRECT
        self._values["last_seen"] = 100

    def snapshot(self) -> Snapshot:
        return self._tables.snapshot()

    def has(self, name: MapName) -> bool:
        return name is MapName.NAT_NEW_OUTSIDE

    def walk_hash(self, name: MapName) -> Iterator[tuple[Records, Records]]:
        yield self._keys, self._values


def test_a_tuple_left_to_a_direct_connection_is_called_so() -> None:
    """D85"""
    (view,) = reverse_halves(OneDirectConnection(), Filter(), now_s=107)

    assert (view.service, view.age_seconds) == ("(direct)", 7)
    assert view.reply == "10.244.1.2:8080 → 192.0.2.7:40000"
    assert view.original == "192.0.2.7:40000 → 10.244.1.2:8080"
