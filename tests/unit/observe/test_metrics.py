# SPDX-License-Identifier: Apache-2.0
"""Metric names, values and their bounded number (R106, R107, R109)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from tests.support.readings import (
    LOCAL,
    SIZE,
    ReadableTables,
    backend,
    frontend,
    node_port,
    service_port,
)
from tests.support.services import endpoint_slice, service
from vipbee.abi import Reason
from vipbee.core.change_log import ChangeLog, Trigger
from vipbee.core.request_counts import NO_ANSWER, ApiRequest
from vipbee.errors import EnvironmentUnusable
from vipbee.observe.health import Health
from vipbee.observe.metrics import AgentMetrics


@pytest.fixture
def tables() -> ReadableTables:
    tables = ReadableTables()
    web = (backend("10.244.1.2", LOCAL), backend("10.244.2.2"))
    tables.program(
        service_port("web", frontend("10.96.0.10"), port_name="http", backends=web),
        service_port("api", frontend("10.96.0.11"), backends=(backend("10.244.1.3"),)),
    )
    tables.count("web", opened=10, closed=4, refused=1)
    tables.count("api", opened=2, closed=0)
    tables.count_backend("10.244.1.2", opened=7, closed=4)
    return tables


def made(tables: ReadableTables, health: Health | None = None, **options: Any) -> AgentMetrics:
    return AgentMetrics(lambda: nullcontext(tables), health, **options)


def page(metrics: AgentMetrics) -> dict[str, float]:
    """Samples as scraped: {`name{labels}`: value}."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_maps_say_how_full_they_are(tables: ReadableTables) -> None:
    """F35"""
    samples = page(made(tables))

    assert samples['vipbee_map_entries{map="backends"}'] == 3
    assert samples['vipbee_map_capacity{map="backends"}'] == SIZE - 1
    assert samples['vipbee_map_pressure_ratio{map="backends"}'] == 3 / (SIZE - 1)
    assert samples['vipbee_map_entries{map="slots"}'] == 3


def test_reasons_have_names(tables: ReadableTables) -> None:
    tables.reason_totals[Reason.UNKNOWN_PORT] = 5

    samples = page(made(tables))

    assert samples['vipbee_reasons_total{reason="unknown_port"}'] == 5
    assert samples['vipbee_reasons_total{reason="no_endpoint"}'] == 0


def test_connections_by_service_and_backend(tables: ReadableTables) -> None:
    samples = page(made(tables))

    web = 'ip_family="IPv4",namespace="default",port="http",service="web"'
    assert samples[f"vipbee_service_connections_opened_total{{{web}}}"] == 10
    assert samples[f"vipbee_service_connections_active{{{web}}}"] == 6
    assert samples[f"vipbee_service_connections_refused_total{{{web}}}"] == 1
    backend_labels = f'backend="10.244.1.2:8080",{web}'
    assert samples[f"vipbee_backend_connections_active{{{backend_labels}}}"] == 3
    assert samples["vipbee_connections_opened_total"] == 12
    assert samples["vipbee_connections_active"] == 8


def test_series_are_bounded_to_the_busiest(tables: ReadableTables) -> None:
    samples = page(made(tables, top=1))

    services = [name for name in samples if name.startswith("vipbee_service_connections_opened")]
    backends = [name for name in samples if name.startswith("vipbee_backend_connections_opened")]
    assert len(services) == 1
    assert 'service="web"' in services[0]
    assert len(backends) == 1
    assert samples["vipbee_connections_opened_total"] == 12  # all of them


def test_series_can_be_switched_off(tables: ReadableTables) -> None:
    samples = page(made(tables, top=0))

    assert not [name for name in samples if "service=" in name]


def test_service_ports_without_local_endpoints_are_counted_by_policy() -> None:
    """R107: policy Local, endpoints somewhere, none here."""
    tables = ReadableTables()
    elsewhere = (backend("10.244.2.2"),)
    tables.program(
        service_port("itp", frontend("10.96.0.1", local=True), backends=elsewhere),
        service_port("etp", node_port(30080, local=True), backends=elsewhere),
        service_port("etp2", node_port(30081, local=True), backends=elsewhere),
        service_port("empty", frontend("10.96.0.2", local=True)),
        service_port(
            "here", frontend("10.96.0.3", local=True), backends=(backend("10.244.1.2", LOCAL),)
        ),
    )

    samples = page(made(tables))

    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    assert samples[f'{name}{{ip_family="IPv4",traffic_policy="internal"}}'] == 1
    assert samples[f'{name}{{ip_family="IPv4",traffic_policy="external"}}'] == 2
    assert samples[f'{name}{{ip_family="IPv6",traffic_policy="external"}}'] == 0


def test_there_is_no_series_for_when_another_was_created(tables: ReadableTables) -> None:
    """kube-proxy has none, and they double what is stored."""
    assert [name for name in page(made(tables)) if "_created" in name] == []


def test_syncs_are_observed_under_kube_proxys_names(tables: ReadableTables) -> None:
    metrics = made(tables)

    metrics.observe_sync(0.5, full=True)
    metrics.observe_sync(0.001)

    samples = page(metrics)
    for family in ('{ip_family="IPv4"}', '{ip_family="IPv6"}'):  # programmed together
        assert samples[f"kubeproxy_sync_proxy_rules_duration_seconds_count{family}"] == 2
        assert samples[f"kubeproxy_sync_full_proxy_rules_duration_seconds_sum{family}"] == 0.5
        assert samples[f"kubeproxy_sync_partial_proxy_rules_duration_seconds_sum{family}"] == 0.001
        assert samples[f"kubeproxy_sync_proxy_rules_last_timestamp_seconds{family}"] > 1.7e9


def test_changes_are_pending_until_they_are_in_force(tables: ReadableTables) -> None:
    """R106: totals go on."""
    changes = ChangeLog()
    metrics = made(tables, changes=changes)
    changes.note_service(None, service())
    changes.note_slice(None, endpoint_slice("10.0.0.1"))
    changes.note_slice(endpoint_slice("10.0.0.1"), None)

    before = page(metrics)
    changes.settle()
    after = page(metrics)

    prefix, family = "kubeproxy_sync_proxy_rules", '{ip_family="IPv4"}'
    assert before[f"{prefix}_service_changes_pending{family}"] == 1
    assert before[f"{prefix}_endpoint_changes_pending{family}"] == 2
    assert after[f"{prefix}_service_changes_pending{family}"] == 0
    assert after[f"{prefix}_endpoint_changes_pending{family}"] == 0
    assert after[f"{prefix}_service_changes_total{family}"] == 1
    assert after[f"{prefix}_endpoint_changes_total{family}"] == 2
    assert after[f'{prefix}_endpoint_changes_total{{ip_family="IPv6"}}'] == 0


def test_network_programming_is_measured_from_the_trigger(tables: ReadableTables) -> None:
    """R108: by family; a clock that is ahead of ours makes no negative time."""
    metrics = made(tables)

    metrics.observe_triggers([Trigger(4, 100.0), Trigger(4, 103.5), Trigger(6, 200.0)], 103.0)

    samples = page(metrics)
    name = "kubeproxy_network_programming_duration_seconds"
    assert samples[f'{name}_count{{ip_family="IPv4"}}'] == 2
    assert samples[f'{name}_sum{{ip_family="IPv4"}}'] == 3.0
    assert samples[f'{name}_bucket{{ip_family="IPv4",le="3.0"}}'] == 2
    assert samples[f'{name}_bucket{{ip_family="IPv4",le="2.0"}}'] == 1
    assert samples[f'{name}_sum{{ip_family="IPv6"}}'] == 0


def test_delays_of_events_are_observed(tables: ReadableTables) -> None:
    metrics = made(tables)

    metrics.queued(1.8e9)
    metrics.observe_events([10.0, 10.5], 11.0)

    samples = page(metrics)
    assert samples["vipbee_event_to_programmed_seconds_count"] == 2
    assert samples["vipbee_event_to_programmed_seconds_sum"] == 1.5
    queued = 'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}'
    assert samples[queued] == 1.8e9


def test_agents_metrics_stay_while_tables_cannot_be_read(tables: ReadableTables) -> None:
    """Somebody removed the pins: the scrape goes on without what is in the maps."""

    def missing() -> nullcontext[ReadableTables]:
        raise EnvironmentUnusable("the pinned map services is missing", remedy="restart the agent")

    samples = page(AgentMetrics(missing))

    assert "vipbee_problems" in samples
    assert not [name for name in samples if name.startswith("vipbee_map")]


def test_process_is_measured_as_everywhere(tables: ReadableTables) -> None:
    """Dashboards of kube-proxy show them."""
    assert page(made(tables))["process_resident_memory_bytes"] > 0


def test_agents_own_counts_and_probe_answers(tables: ReadableTables) -> None:
    health = Health()
    metrics = made(tables, health)
    metrics.problems, metrics.repairs = 2, 3
    health.healthz(0.0)

    samples = page(metrics)

    assert samples["vipbee_problems"] == 2
    assert samples["vipbee_audit_repairs_total"] == 3
    assert samples['kubeproxy_proxy_healthz_total{code="503"}'] == 1


def test_requests_to_the_api_server_are_counted_by_answer(tables: ReadableTables) -> None:
    """R106, as client-go counts them."""
    metrics = made(tables)
    metrics.requests[ApiRequest("200", "192.0.2.1:6443", "GET")] += 2
    metrics.requests[ApiRequest(NO_ANSWER, "192.0.2.2:6443", "GET")] += 1

    samples = page(metrics)

    name = "rest_client_requests_total"
    assert samples[f'{name}{{code="200",host="192.0.2.1:6443",method="GET"}}'] == 2
    assert samples[f'{name}{{code="<error>",host="192.0.2.2:6443",method="GET"}}'] == 1
