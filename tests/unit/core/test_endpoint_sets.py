# SPDX-License-Identifier: Apache-2.0
"""Conditions and topology: who is in the Cluster set and in the Local set (R26–R31, R69–R75)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.endpoint_tables import C, L, N, R, S, T, port, sets
from tests.support.services import endpoint, endpoint_slice
from vipbee.abi import BackendFlag
from vipbee.core.nodes import NodeView

USABILITY = [
    # ready, serving, terminating → flags of a lone local endpoint, None: not even serving (§2.2)
    (None, None, None, R | S | C | L | N),
    (True, None, None, R | S | C | L | N),
    (True, False, None, R | S | C | L | N),  # R27: Ready counts whatever the others say
    (True, True, True, R | S | C | L | N | T),  # publishNotReadyAddresses
    (None, False, True, R | S | C | L | N | T),
    (False, None, True, S | C | L | N | T),
    (False, True, True, S | C | L | N | T),
    (False, False, True, None),
    (False, None, None, S | N),  # R30, but an existing flow stays (R110)
    (False, True, False, S | N),
    (False, False, None, None),
    (False, False, False, None),
]


@pytest.mark.parametrize(("ready", "serving", "terminating", "flags"), USABILITY)
def test_conditions_decide_usability(
    ready: bool | None, serving: bool | None, terminating: bool | None, flags: BackendFlag | None
) -> None:
    """F23, R26, R27, R30, R31, R110"""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}

    found = port(endpoint_slice(endpoint("10.0.0.1", node="n1", **conditions)))

    assert [b.flags for b in found.backends] == ([] if flags is None else [flags])
    assert found.endpoints == 1


GOING = {"ready": False, "serving": True, "terminating": True}


def test_terminating_endpoints_are_used_only_while_nobody_is_ready() -> None:
    """F23, R28"""
    going = endpoint("10.0.0.1", **GOING)
    unready = endpoint("10.0.0.3", ready=False)

    assert sets(going, endpoint("10.0.0.2"), unready) == ("2", "")
    assert sets(going, unready) == ("1", "")
    assert sets(unready) == ("", "")


def test_local_set_falls_back_though_ready_endpoints_exist_elsewhere() -> None:
    """F23, R29"""
    going_here = endpoint("10.0.0.1", node="n1", **GOING)
    ready_elsewhere = endpoint("10.0.0.2", node="n2")

    assert sets(going_here, ready_elsewhere) == ("2", "1")


HERE = {"nodes": ["n1"], "zones": ["z1"]}
THERE = {"nodes": ["n2"], "zones": ["z1"]}
ELSEWHERE = {"nodes": ["n3"], "zones": ["z2"]}
TOPOLOGY = [
    ("R69 same node", [HERE, THERE, ELSEWHERE], "1"),
    ("R70 no endpoint for this node: same zone", [THERE, ELSEWHERE], "1"),
    ("R70 one without node hint: same zone", [HERE, {"zones": ["z1"]}, ELSEWHERE], "1 2"),
    ("R70 zones only", [{"zones": ["z1"]}, {"zones": ["z2"]}], "1"),
    ("R71 one without any hint", [HERE, THERE, {}], "1 2 3"),
    ("R71 nobody for this zone", [{"zones": ["z2"]}, {"zones": ["z3"]}], "1 2"),
    ("R71 empty hint lists are none", [{"zones": []}, {"zones": ["z1"]}], "1 2"),
    ("R72 unready without hint does not matter", [HERE, THERE, {"ready": False}], "1"),
    ("R72 hinted ones unready", [{"zones": ["z1"], "ready": False}, {"zones": ["z2"]}], "2"),
    ("R73 any match suffices", [{"zones": ["z2", "z1"]}, {"zones": ["z2"]}], "1"),
    ("R74 fallback ignores hints", [{"zones": ["z2"], **GOING}, {"zones": ["z1"], **GOING}], "1 2"),
]


@pytest.mark.parametrize(
    ("members", "cluster"), [t[1:] for t in TOPOLOGY], ids=[t[0] for t in TOPOLOGY]
)
def test_hints_reduce_the_cluster_set(members: list[dict[str, Any]], cluster: str) -> None:
    numbered = [endpoint(f"10.0.0.{i}", **fields) for i, fields in enumerate(members, start=1)]

    assert sets(*numbered)[0] == cluster


def test_node_without_zone_ignores_zone_hints() -> None:
    """R71, R75: and obeys them as soon as it has one."""
    members = [endpoint("10.0.0.1", zones=["z1"]), endpoint("10.0.0.2", zones=["z2"])]

    assert sets(*members, node=NodeView(name="n1"))[0] == "1 2"
    assert sets(*members, node=NodeView(name="n1", zone="z2"))[0] == "2"


def test_hints_never_touch_the_local_set() -> None:
    """R74"""
    here = endpoint("10.0.0.1", node="n1", zones=["z2"])
    there = endpoint("10.0.0.2", node="n2", zones=["z1"])

    assert sets(here, there) == ("2", "1")
