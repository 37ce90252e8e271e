# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from tests.support.service_ports import (
    CAPACITY,
    CLUSTER,
    DRAINING,
    backend,
    by_service,
    gone,
    service_port,
)
from vipbee.abi import BackendFlag, MapName
from vipbee.core.desired import Desired
from vipbee.core.plan import Changes, Op
from vipbee.core.render import frontend_keys
from vipbee.datapath.layouts import load_layouts
from vipbee.model import FrontendKey

LAYOUTS = load_layouts()


def steps(plan: list[Op]) -> list[str]:
    return [f"{'delete' if op.values is None else 'put'} {op.map}" for op in plan]


def test_a_new_service_is_written_from_the_far_end() -> None:
    desired = Desired(LAYOUTS, CAPACITY)

    plan = desired.update(by_service(service_port("web", [1], [1, 2])))

    assert steps(plan) == [
        "put service_counters",
        "put backend_counters",
        "put backends",
        "put slots",
        "put services",
        "put frontends",
        "put addresses",
    ]


def test_a_service_is_withdrawn_from_the_near_end() -> None:
    desired = Desired(LAYOUTS, CAPACITY)
    desired.update(by_service(service_port("web", [1], [1, 2])))

    plan = desired.update(gone("web"))

    assert steps(plan) == [
        "delete frontends",
        "delete addresses",
        "put backends",
        "delete services",
    ]


def test_a_backend_that_leaves_is_freed_after_the_frontend_switched() -> None:
    desired = Desired(LAYOUTS, CAPACITY)
    desired.update(by_service(service_port("web", [1], [1, 2])))

    plan = desired.update(by_service(service_port("web", [1], [2])))

    assert steps(plan) == ["put slots", "put services", "put frontends", "put backends"]
    freed = plan[-1].values
    assert freed is not None
    assert (freed["flags"].tolist(), freed["generation"].tolist()) == ([0], [1])


def test_a_backend_that_drains_keeps_both_flags_until_the_frontend_switched() -> None:
    """R110: it stays serving throughout; affinity may return to it until the switch."""
    desired = Desired(LAYOUTS, CAPACITY)
    desired.update(by_service(service_port("web", [1], [1, 2])))

    plan = desired.update(by_service(service_port("web", [1], [backend(1, DRAINING), 2])))

    assert steps(plan) == ["put backends", "put slots", "put frontends", "put backends"]
    first, last = plan[0].values, plan[-1].values
    assert first is not None
    assert last is not None
    assert first["flags"].tolist() == [CLUSTER | DRAINING]
    assert last["flags"].tolist() == [DRAINING]


def test_flags_that_do_not_move_a_slot_write_the_backend_only() -> None:
    desired = Desired(LAYOUTS, CAPACITY)
    desired.update(by_service(service_port("web", [1], [1])))
    on_node = backend(1, CLUSTER | BackendFlag.ON_NODE)

    plan = desired.update(by_service(service_port("web", [1], [on_node])))

    assert steps(plan) == ["put backends"]


def test_affinity_is_switched_in_the_frontend_alone() -> None:
    """R65."""
    desired = Desired(LAYOUTS, CAPACITY)
    desired.update(by_service(service_port("web", [1], [1])))

    plan = desired.update(by_service(service_port("web", [1], [1], affinity_timeout_s=10)))

    assert steps(plan) == ["put frontends"]


def test_pieces_of_one_step_keep_the_byte_order_of_their_layout() -> None:
    """NumPy would otherwise join big-endian ports to native ones, swapped on the wire."""
    keys = [frontend_keys(LAYOUTS, [FrontendKey(bytes(16), port, 6)]) for port in (80, 443)]

    (op,) = Changes(frontends_gone=keys).operations(LAYOUTS)

    assert op.keys.dtype == LAYOUTS["frontend_key"]
    assert op.keys.tobytes() == keys[0].tobytes() + keys[1].tobytes()


def test_repairs_remove_what_is_nobodys_first() -> None:
    key = frontend_keys(LAYOUTS, [FrontendKey(bytes(16), 80, 6)])
    changes = Changes(
        frontends=[(key, np.zeros(1, LAYOUTS["frontend"]))],
        frontends_gone=[key],
        backends_last=[(np.array([3], np.uint32), np.zeros(1, LAYOUTS["backend"]))],
    )

    assert steps(changes.repairs(LAYOUTS)) == [
        "delete frontends",
        "put frontends",
        "put backends",
    ]
    assert {op.map for op in changes.repairs(LAYOUTS)} == {MapName.FRONTENDS, MapName.BACKENDS}
