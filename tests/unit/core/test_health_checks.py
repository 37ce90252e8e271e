# SPDX-License-Identifier: Apache-2.0
"""Which Services load balancers may ask for, and what they learn (R96, R99, R117)."""

from __future__ import annotations

import pytest

from tests.support.services import endpoint, endpoint_slice, service
from vipbee.core.health_checks import HealthCheck, HealthChecks
from vipbee.core.nodes import NodeView
from vipbee.core.select import select
from vipbee.model import EndpointSlice, Service, ServiceName, ServicePort

NODE = NodeView("node-a")
WEB = ServiceName("default", "web")


def local_service(**spec: object) -> Service:
    fields = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
    }
    return service(**(fields | spec))


def ports(wanted: Service, *slices: EndpointSlice) -> dict[ServiceName, tuple[ServicePort, ...]]:
    return {WEB: select(wanted, slices, NODE).ports}


def check(wanted: Service, *slices: EndpointSlice) -> HealthCheck | None:
    checks = HealthChecks()
    checks.note(WEB, wanted)
    return checks.refresh(ports(wanted, *slices)).get(WEB)


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "NodePort"},
        {"externalTrafficPolicy": "Cluster"},
        {"externalTrafficPolicy": None},
        {"healthCheckNodePort": 0},
    ],
)
def test_only_local_load_balancers_with_a_port_have_a_check(spec: dict[str, object]) -> None:
    """R96."""
    assert check(local_service(**spec)) is None


def test_node_without_endpoints_answers_as_well() -> None:
    """R96: on every node, with or without local endpoints."""
    remote = endpoint_slice(endpoint("10.0.0.1", node="node-b"))

    assert check(local_service(), remote) == HealthCheck(32000, {4: 0})
    assert check(local_service()) == HealthCheck(32000, {4: 0})


def test_addresses_of_local_ready_endpoints_are_counted_once_over_all_ports() -> None:
    """R99: neither remote nor terminating nor unready ones; one address on two ports is one."""
    wanted = local_service(ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}])
    both = [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]
    slices = endpoint_slice(
        endpoint("10.0.0.1", node="node-a"),
        endpoint("10.0.0.2", node="node-a"),
        endpoint("10.0.0.3", node="node-b"),
        endpoint("10.0.0.4", node="node-a", ready=False, serving=True, terminating=True),
        endpoint("10.0.0.5", node="node-a", ready=False),
        ports=both,
    )

    assert check(wanted, slices) == HealthCheck(32000, {4: 2})


def test_terminating_endpoints_serve_and_do_not_count() -> None:
    """R99, KEP-1669: the load balancer goes elsewhere while they still serve."""
    last = endpoint("10.0.0.1", node="node-a", ready=False, serving=True, terminating=True)

    assert check(local_service(), endpoint_slice(last)) == HealthCheck(32000, {4: 0})


def test_families_are_counted_apart() -> None:
    """R117."""
    wanted = local_service(clusterIP="10.96.0.10", clusterIPs=["10.96.0.10", "fd00::10"])
    six = endpoint_slice(endpoint("fd01::1", node="node-a"), name="web-6", family="IPv6")

    assert check(wanted, six) == HealthCheck(32000, {4: 0, 6: 1})


def test_service_that_is_not_programmed_has_no_check() -> None:
    """A load balancer that gets no answer sends nothing."""
    checks = HealthChecks()
    checks.note(WEB, local_service())

    assert checks.refresh({}) == {}


def test_nothing_new_is_the_same_object() -> None:
    checks = HealthChecks()
    wanted = local_service()
    checks.note(WEB, wanted)
    programmed = ports(wanted, endpoint_slice(endpoint("10.0.0.1", node="node-a")))
    first = checks.refresh(programmed)

    checks.note(WEB, wanted)
    again = checks.refresh(programmed)
    changed = checks.refresh(ports(wanted))

    assert again is first
    assert changed == {WEB: HealthCheck(32000, {4: 0})}


def test_check_follows_another_port_and_goes_with_the_policy() -> None:
    """R100."""
    checks = HealthChecks()
    wanted = local_service()
    programmed = ports(wanted)
    checks.note(WEB, wanted)
    checks.refresh(programmed)

    checks.note(WEB, local_service(healthCheckNodePort=32001))
    moved = checks.refresh(programmed)
    checks.note(WEB, local_service(externalTrafficPolicy="Cluster"))
    without = checks.refresh(programmed)

    assert moved == {WEB: HealthCheck(32001, {4: 0})}
    assert without == {}


def test_retain_forgets_services_that_are_gone() -> None:
    checks = HealthChecks()
    wanted = local_service()
    checks.note(WEB, wanted)
    checks.refresh(ports(wanted))

    checks.retain([])

    assert checks.refresh(ports(wanted)) == {}
