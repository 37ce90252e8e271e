# SPDX-License-Identifier: Apache-2.0
"""What `vipbee status` composes from the tables."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.readings import LOCAL, SIZE, ReadableTables, backend, frontend, service_port
from vipbee.abi import FrontendKind, Reason, ReportSeverity
from vipbee.observe.status import StatusView, fill, read_agent


@pytest.fixture
def tables() -> ReadableTables:
    return ReadableTables()


def filled(tables: ReadableTables) -> StatusView:
    view = StatusView(running=False, programmed=True, layout="v1", bpf_root="/x")
    fill(view, tables, hooks=[], degraded=["first"])
    return view


def test_services_are_counted_by_name_and_by_port(tables: ReadableTables) -> None:
    tables.program(
        service_port("web", frontend("10.96.0.10"), port_name="a", backends=()),
        service_port("web", frontend("10.96.0.10", port=81), port_name="b", backends=()),
        service_port("web", frontend("10.96.0.11"), namespace="other"),
    )

    view = filled(tables)

    assert (view.services, view.service_ports, view.frontends) == (2, 3, 3)


def test_slots_shared_by_frontends_count_once(tables: ReadableTables) -> None:
    tables.program(
        service_port(
            "web",
            frontend("10.96.0.10"),
            frontend("192.0.2.1", FrontendKind.EXTERNAL_IP),
            frontend("192.0.2.2", FrontendKind.LOAD_BALANCER, local=True),
            backends=(backend("10.244.1.2", LOCAL), backend("10.244.2.2")),
        )
    )

    slots = {entry.name: entry.entries for entry in filled(tables).maps}["slots"]

    assert slots == 2  # the local run is a part of the cluster run


def test_almost_full_map_is_a_degradation(tables: ReadableTables) -> None:
    ports = [
        service_port(f"s{n}", frontend(f"10.96.0.{n}"), backends=()) for n in range(1, SIZE - 1)
    ]
    tables.program(*ports)

    degraded = filled(tables).degraded

    assert degraded[0] == "first"
    assert "map frontends is 97% full" in degraded


def test_problems_come_with_errors_first(tables: ReadableTables) -> None:
    tables.reports = np.zeros(2, dtype=tables.layouts["report"])
    tables.reports["object"] = [b"Service default/a", "Service default/ü".encode()]
    tables.reports["message"] = [b"skipped", b"broken"]
    tables.reports["severity"] = [ReportSeverity.WARNING, ReportSeverity.ERROR]

    problems = filled(tables).problems

    assert [(p.severity, p.object, p.message) for p in problems] == [
        ("error", "Service default/ü", "broken"),
        ("warning", "Service default/a", "skipped"),
    ]


def test_reasons_are_named(tables: ReadableTables) -> None:
    tables.reason_totals[Reason.NO_ENDPOINT] = 9

    assert filled(tables).reasons["no_endpoint"] == 9


def test_card_of_an_agent_that_never_started_is_none(tables: ReadableTables) -> None:
    assert read_agent(tables) is None


def test_card_that_was_never_synced_says_so(tables: ReadableTables) -> None:
    tables.card["pid"] = 42
    tables.card["node_name"] = b"node-a"
    tables.card["started_unix_ns"] = 1_700_000_000_250_000_000

    agent = read_agent(tables)

    assert agent is not None
    assert (agent.pid, agent.node, agent.last_sync) == (42, "node-a", None)
    assert agent.started == "2023-11-14T22:13:20.250Z"
