# SPDX-License-Identifier: Apache-2.0
"""Metric names, values and their bounded number (R106, R107, R109)."""

from __future__ import annotations

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
from vipbee.abi import Reason
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


def page(metrics: AgentMetrics) -> dict[str, float]:
    """Samples as scraped: {`name{labels}`: value}."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_maps_say_how_full_they_are(tables: ReadableTables) -> None:
    samples = page(AgentMetrics(tables))

    assert samples['vipbee_map_entries{map="backends"}'] == 3
    assert samples['vipbee_map_capacity{map="backends"}'] == SIZE - 1
    assert samples['vipbee_map_pressure_ratio{map="backends"}'] == 3 / (SIZE - 1)
    assert samples['vipbee_map_entries{map="slots"}'] == 3


def test_reasons_have_names(tables: ReadableTables) -> None:
    tables.reason_totals[Reason.UNKNOWN_PORT] = 5

    samples = page(AgentMetrics(tables))

    assert samples['vipbee_reasons_total{reason="unknown_port"}'] == 5
    assert samples['vipbee_reasons_total{reason="no_endpoint"}'] == 0


def test_connections_by_service_and_backend(tables: ReadableTables) -> None:
    samples = page(AgentMetrics(tables))

    web = 'family="4",namespace="default",port="http",service="web"'
    assert samples[f"vipbee_service_connections_opened_total{{{web}}}"] == 10
    assert samples[f"vipbee_service_connections_active{{{web}}}"] == 6
    assert samples[f"vipbee_service_connections_refused_total{{{web}}}"] == 1
    backend_labels = f'backend="10.244.1.2:8080",{web}'
    assert samples[f"vipbee_backend_connections_active{{{backend_labels}}}"] == 3
    assert samples["vipbee_connections_opened_total"] == 12
    assert samples["vipbee_connections_active"] == 8


def test_series_are_bounded_to_the_busiest(tables: ReadableTables) -> None:
    samples = page(AgentMetrics(tables, top=1))

    services = [name for name in samples if name.startswith("vipbee_service_connections_opened")]
    backends = [name for name in samples if name.startswith("vipbee_backend_connections_opened")]
    assert len(services) == 1
    assert 'service="web"' in services[0]
    assert len(backends) == 1
    assert samples["vipbee_connections_opened_total"] == 12  # all of them


def test_series_can_be_switched_off(tables: ReadableTables) -> None:
    samples = page(AgentMetrics(tables, top=0))

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

    samples = page(AgentMetrics(tables))

    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    assert samples[f'{name}{{traffic_policy="internal"}}'] == 1
    assert samples[f'{name}{{traffic_policy="external"}}'] == 2


def test_syncs_are_observed_under_kube_proxys_names(tables: ReadableTables) -> None:
    metrics = AgentMetrics(tables)

    metrics.observe_sync(0.5, full=True)
    metrics.observe_sync(0.001)

    samples = page(metrics)
    assert samples["kubeproxy_sync_proxy_rules_duration_seconds_count"] == 2
    assert samples["kubeproxy_sync_full_proxy_rules_duration_seconds_sum"] == 0.5
    assert samples["kubeproxy_sync_partial_proxy_rules_duration_seconds_sum"] == 0.001
    assert samples["kubeproxy_sync_proxy_rules_last_timestamp_seconds"] > 1.7e9


def test_agents_own_counts_and_probe_answers(tables: ReadableTables) -> None:
    health = Health()
    metrics = AgentMetrics(tables, health)
    metrics.problems, metrics.repairs = 2, 3
    health.healthz(0.0)

    samples = page(metrics)

    assert samples["vipbee_problems"] == 2
    assert samples["vipbee_audit_repairs_total"] == 3
    assert samples['kubeproxy_proxy_healthz_total{code="503"}'] == 1
