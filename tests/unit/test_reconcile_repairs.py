# SPDX-License-Identifier: Apache-2.0
"""Writes that fail, and audits that put right what is not as it should be: R8, R103, R130, F36."""

from __future__ import annotations

import pytest

from tests.support.reconciling import WEB_LINES, Node, web
from vipbee.abi import MapName
from vipbee.core.plan import Op
from vipbee.errors import KernelError
from vipbee.model import Problem


@pytest.mark.parametrize(
    "failing", [MapName.BACKENDS, MapName.SLOTS, MapName.SERVICES, MapName.FRONTENDS]
)
def test_failed_write_is_healed_by_an_audit(failing: MapName) -> None:
    """F36, R130: known as out of step until an audit has compared."""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()
    node_.tables.failing = failing

    node_.replace("a", [*web(), *web(11, "other", 2)])
    with pytest.raises(KernelError):
        node_.program()
    out_of_step = node_.reconciler.out_of_step
    still = WEB_LINES[0] in node_.lines()
    node_.tables.failing = None
    node_.audit()

    fresh = Node()
    fresh.replace("a", [*web(), *web(11, "other", 2)])
    fresh.begin()
    assert out_of_step
    assert still
    assert not node_.reconciler.out_of_step
    assert node_.lines() == fresh.lines()
    assert node_.audit().entries == 0


def test_only_what_was_written_is_in_force() -> None:
    """R103: a step that had nothing to do must not make a failed one forgotten."""
    node_ = Node()
    node_.replace("a", web())
    before = node_.reconciler.is_in_force
    node_.tables.failing = MapName.FRONTENDS

    with pytest.raises(KernelError):
        node_.begin()
    node_.reconciler.reclaim()
    failed = node_.reconciler.is_in_force
    node_.tables.failing = None
    node_.audit()

    assert (before, failed, node_.reconciler.is_in_force) == (False, False, True)


def test_audit_that_fails_leaves_it_out_of_step() -> None:
    """F36"""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()
    snapshot = node_.tables.snapshot()
    node_.tables.apply(Op(MapName.FRONTENDS, snapshot.frontend_keys, None))
    node_.tables.failing = MapName.FRONTENDS

    with pytest.raises(KernelError):
        node_.audit()

    assert node_.reconciler.out_of_step


def test_audit_repairs_and_deletes_nothing_while_a_source_is_unknown() -> None:
    """R8, R130, F36: what the unread file says may be programmed already."""
    earlier = Node()
    earlier.replace("b", web(12, "other"))
    earlier.begin()
    node_ = Node(earlier.tables.memory)
    node_.reconciler.adopt()
    node_.reconciler.fail("b", Problem("b", "cannot be read", True))
    node_.replace("a", web())
    node_.tables.failing = MapName.FRONTENDS
    with pytest.raises(KernelError):
        node_.begin()
    node_.tables.failing = None

    node_.audit()

    assert node_.reconciler.is_in_force
    assert node_.services() == {"default/web:", "default/other:"}
    assert node_.audit().entries == 0


def test_audit_counts_what_it_repaired() -> None:
    """R130"""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()
    snapshot = node_.tables.snapshot()
    node_.tables.apply(Op(MapName.FRONTENDS, snapshot.frontend_keys, None))

    applied = node_.audit()

    assert applied.entries == 1
    assert node_.lines() == WEB_LINES
