# SPDX-License-Identifier: Apache-2.0
"""Sharing changes no value (R132, F22: memory of many endpoints)."""

from __future__ import annotations

import copy

from tests.support.services import endpoint, endpoint_slice, service
from vipbee.sources.sharing import share


def test_equal_parts_of_endpoints_become_one_object() -> None:
    """F22"""
    fields = {"ready": True, "node": "node-a", "zone": "z", "zones": ["z"], "nodes": ["node-a"]}
    item = endpoint_slice(*(endpoint(f"10.0.0.{n}", **dict(fields)) for n in (1, 2)))
    before = copy.deepcopy(item)

    share(item)

    assert item == before
    assert item.endpoints is not None
    one, two = item.endpoints
    assert one.conditions is two.conditions
    assert one.hints is two.hints
    assert one.zone is two.zone
    assert one.nodeName is two.nodeName


def test_different_parts_stay_apart() -> None:
    item = endpoint_slice(
        endpoint("10.0.0.1", ready=True, zones=["a"]),
        endpoint("10.0.0.2", ready=False, zones=["b"]),
        endpoint("10.0.0.3", nodes=["a"]),
        endpoint("10.0.0.4"),
    )
    before = copy.deepcopy(item)

    share(item)
    share(service())

    assert item == before
