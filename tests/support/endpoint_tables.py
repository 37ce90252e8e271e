# SPDX-License-Identifier: Apache-2.0
"""EndpointSlices read for one node, and the sets that come out as text."""

from __future__ import annotations

from typing import Any

from tests.support.services import endpoint_slice
from vipbee.abi import BackendFlag
from vipbee.address import format_endpoint
from vipbee.core.endpoint_sets import PortEndpoints
from vipbee.core.endpoints import EndpointTable
from vipbee.core.nodes import NodeView
from vipbee.model import EndpointSlice

NODE = NodeView(name="n1", zone="z1")


def table(*slices: EndpointSlice, family: int = 4, node: NodeView = NODE) -> EndpointTable:
    return EndpointTable(slices, family=family, node=node)


def port(*slices: EndpointSlice, name: str = "", protocol: str = "TCP") -> PortEndpoints:
    return table(*slices).port(name, protocol)


def places(found: PortEndpoints, flag: BackendFlag = BackendFlag.SERVING) -> list[str]:
    return [format_endpoint(b.address, b.port) for b in found.backends if b.flags & flag]


def hosts(found: PortEndpoints, flag: BackendFlag) -> str:
    """The backends with this flag, by the last part of their address: "1 3"."""
    return " ".join(place.split(".")[-1].split(":")[0] for place in places(found, flag))


def sets(*members: dict[str, Any], node: NodeView = NODE) -> tuple[str, str]:
    """Cluster set and Local set of one slice."""
    found = table(endpoint_slice(*members), node=node).port("", "TCP")
    return hosts(found, BackendFlag.IN_CLUSTER), hosts(found, BackendFlag.IN_LOCAL)


R, S, C, L, N, T = (
    BackendFlag.READY,
    BackendFlag.SERVING,
    BackendFlag.IN_CLUSTER,
    BackendFlag.IN_LOCAL,
    BackendFlag.ON_NODE,
    BackendFlag.TERMINATING,
)
