# SPDX-License-Identifier: Apache-2.0
"""What is recognised in tables that somebody damaged. Plain restarts: test_desired.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.support.service_ports import CAPACITY, by_service, external, service_port
from vipbee.core.adopt import Adopted, read_tables
from vipbee.core.desired import Desired
from vipbee.core.snapshot import Snapshot
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.memory import MemoryTables
from vipbee.model import ServicePort, ServicePortKey

LAYOUTS = load_layouts()
WEB = ServicePortKey("default", "web", "", 6, 4)


def tables_of(*ports: ServicePort) -> Snapshot:
    tables = MemoryTables(LAYOUTS, CAPACITY)
    for op in Desired(LAYOUTS, CAPACITY).update(by_service(*ports)):
        tables.apply(op)
    return tables.snapshot()


def read(snapshot: Snapshot) -> Adopted:
    return read_tables(snapshot, LAYOUTS, CAPACITY)


def test_a_whole_service_is_recognised() -> None:
    port = service_port("web", [1, external(1)], [1, 2])

    record = read(tables_of(port)).programmed[WEB]

    assert record.port.backends == port.backends
    assert set(record.owned) == set(port.frontends)
    assert record.backend_ids.tolist() == [1, 2]
    assert record.run == record.cluster == (0, 2)
    assert record.local == (0, 0)


def test_empty_tables_hold_nothing() -> None:
    assert read(tables_of()).programmed == {}


def test_of_two_backends_with_one_address_the_lower_id_stays() -> None:
    snapshot = tables_of(service_port("web", [1], [1, 2]))
    snapshot.backends[9] = snapshot.backends[1]

    adopted = read(snapshot)

    assert adopted.programmed[WEB].backend_ids.tolist() == [1, 2]
    assert adopted.strays.tolist() == [9]


def test_of_two_ids_for_one_service_port_the_one_with_frontends_stays() -> None:
    snapshot = tables_of(service_port("web", [1], [1]))
    (info,), (used,) = snapshot.services, snapshot.service_ids
    twice = replace(
        snapshot,
        service_ids=np.array([7, used, 0], np.uint32),
        services=np.array([info, info, info], LAYOUTS["service_info"]),
    )

    assert read(twice).programmed[WEB].service_id == used


def test_a_frontend_on_another_run_is_not_recognised_but_its_slots_rest() -> None:
    """A crash between the first and the second frontend of a switch leaves this behind."""
    snapshot = tables_of(service_port("web", [1, external(1)], [1, 2]))
    snapshot.slots[10:12] = [1, 2]
    snapshot.frontends["cluster"]["first"][1] = 10

    adopted = read(snapshot)

    assert len(adopted.frontends) == 1
    assert adopted.foreign_frontends == 1
    assert np.flatnonzero(adopted.seen_slots).tolist() == [0, 1, 10, 11]


def test_a_run_with_a_backend_of_another_service_is_not_recognised() -> None:
    snapshot = tables_of(service_port("web", [1], [1, 2]), service_port("api", [2], [3]))
    snapshot.slots[1] = 3

    adopted = read(snapshot)

    assert adopted.programmed[WEB].run == (0, 0)
    assert adopted.programmed[WEB].owned == ()
    assert len(adopted.frontends) == 1


def test_ranges_that_make_no_sense_are_not_recognised() -> None:
    ports = [service_port(name, [n], [n]) for n, name in enumerate(("a", "b", "c", "d"), 1)]
    snapshot = tables_of(*ports)
    cluster, local = snapshot.frontends["cluster"], snapshot.frontends["local"]
    cluster["count"][0] = 0xFFFFFFFF
    cluster["first"][1] = 0xFFFFFFFF
    local["first"][2], local["count"][2] = 20, 1  # not next to the cluster range
    snapshot.frontends["kind"][3] = 99

    adopted = read(snapshot)

    assert adopted.frontends == {}
    assert all(record.owned == () for record in adopted.programmed.values())


def test_garbage_in_names_and_ids_is_passed_over() -> None:
    snapshot = tables_of(service_port("web", [1], [1]), service_port("api", [2], [2]))
    snapshot.service_ids[0] = CAPACITY.services
    snapshot.services["protocol"][1] = 132

    adopted = read(snapshot)

    assert adopted.programmed == {}
    assert adopted.strays.tolist() == [1, 2]
    assert adopted.foreign_frontends == 2
