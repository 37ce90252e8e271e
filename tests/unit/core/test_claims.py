# SPDX-License-Identifier: Apache-2.0
"""Who owns a frontend that several Services claim: R88, R92, R95, R126, R127."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.services import service
from vipbee.core.claims import Claims
from vipbee.core.nodes import NodeView
from vipbee.core.select import select
from vipbee.model import FrontendKey, Service, ServiceName, ServicePort

NODE = NodeView(name="n1")
A, B, C = (ServiceName("default", name) for name in "abc")
SHARED = {"externalIPs": ["203.0.113.1"]}


def ports(item: Service) -> tuple[ServicePort, ...]:
    found = select(item, (), NODE)
    assert not any(problem.is_error for problem in found.problems)
    return found.ports


def claim(claims: Claims, item: Service) -> set[ServiceName]:
    return claims.update(ServiceName(item.metadata.namespace, item.metadata.name), ports(item))


def owned(claims: Claims, item: Service) -> list[str]:
    """Kinds of the frontends the Service has."""
    names = {1: "ClusterIP", 2: "NodePort", 3: "ExternalIP", 4: "LoadBalancer"}
    return [names[f.kind] for port in ports(item) for f in claims.owned(port)]


def sharing(name: str, created: str | None = None, **spec: Any) -> Service:
    """A Service with its own ClusterIP and 203.0.113.1:80."""
    return service(name, created=created, clusterIP=f"10.96.0.{ord(name)}", **SHARED | spec)


def test_uncontested_frontends_are_owned() -> None:
    claims = Claims()

    assert claim(claims, sharing("a")) == set()

    assert owned(claims, sharing("a")) == ["ClusterIP", "ExternalIP"]
    assert claims.conflicts() == []


def test_oldest_service_wins_whatever_the_order() -> None:
    """F26, R88"""
    old = sharing("b", "2023-01-01T00:00:00Z")
    young = sharing("a", "2024-01-01T00:00:00Z")
    first, second = Claims(), Claims()

    assert claim(first, old) == set()
    assert claim(first, young) == set()
    assert claim(second, young) == set()
    assert claim(second, old) == {A}

    for claims in (first, second):
        assert owned(claims, old) == ["ClusterIP", "ExternalIP"]
        assert owned(claims, young) == ["ClusterIP"]


def test_name_decides_between_services_of_one_age() -> None:
    """R88"""
    claims = Claims()
    claim(claims, sharing("b"))
    claim(claims, sharing("a"))

    assert owned(claims, sharing("a")) == ["ClusterIP", "ExternalIP"]
    assert owned(claims, sharing("b")) == ["ClusterIP"]


def test_unknown_age_counts_as_youngest() -> None:
    claims = Claims()
    claim(claims, sharing("a"))
    claim(claims, sharing("b", "2024-01-01T00:00:00Z"))

    assert owned(claims, sharing("a")) == ["ClusterIP"]


def test_winner_and_loser_are_named() -> None:
    """F26, R88"""
    claims = Claims()
    claim(claims, sharing("a"))
    claim(claims, sharing("b"))

    [problem] = claims.conflicts()

    assert problem.object == "Service default/b"
    assert problem.message == (
        "ExternalIP 203.0.113.1:80/TCP belongs to Service default/a,"
        " which comes first by name; change one of them"
    )
    assert not problem.is_error


def test_frontend_is_handed_over_when_its_owner_goes() -> None:
    """R88"""
    claims = Claims()
    for name in "abc":
        claim(claims, sharing(name))

    assert claims.update(A, ()) == {B}

    assert owned(claims, sharing("b")) == ["ClusterIP", "ExternalIP"]
    assert owned(claims, sharing("c")) == ["ClusterIP"]
    assert claims.update(B, ()) == {C}
    assert owned(claims, sharing("c")) == ["ClusterIP", "ExternalIP"]
    assert claims.conflicts() == []


def test_owner_that_gives_up_only_this_address_hands_it_over() -> None:
    """R87, R88"""
    claims = Claims()
    claim(claims, sharing("a"))
    claim(claims, sharing("b"))

    assert claim(claims, sharing("a", externalIPs=[])) == {B}

    assert owned(claims, sharing("b")) == ["ClusterIP", "ExternalIP"]


def test_loser_that_goes_concerns_nobody() -> None:
    claims = Claims()
    claim(claims, sharing("a"))
    claim(claims, sharing("b"))

    assert claims.update(B, ()) == set()
    assert claims.conflicts() == []


def test_one_address_with_different_ports_serves_both() -> None:
    """R88"""
    claims = Claims()
    web, dns = sharing("a"), sharing("b", ports=[{"port": 80, "protocol": "UDP"}])
    claim(claims, web)
    claim(claims, dns)

    assert owned(claims, web) == owned(claims, dns) == ["ClusterIP", "ExternalIP"]


def test_external_ip_never_takes_a_cluster_ip_over() -> None:
    """CVE-2020-8554: the API server allocates ClusterIPs, anybody can write an externalIP."""
    claims = Claims()
    victim = service("b", clusterIP="10.96.0.53", created="2024-01-01T00:00:00Z")
    thief = service(
        "a", clusterIP="10.96.0.9", externalIPs=["10.96.0.53"], created="2020-01-01T00:00:00Z"
    )

    claim(claims, thief)

    assert claim(claims, victim) == {A}
    assert owned(claims, victim) == ["ClusterIP"]
    assert owned(claims, thief) == ["ClusterIP"]
    [problem] = claims.conflicts()
    assert "belongs to Service default/b, whose ClusterIP it is" in problem.message


def test_service_that_loses_its_cluster_ip_is_an_error() -> None:
    """R126, R127: a re-used ClusterIP passes on when the old owner goes."""
    claims = Claims()
    claim(claims, service("a", created="2024-01-01T00:00:00Z"))
    claim(claims, service("b", created="2024-02-01T00:00:00Z"))

    [problem] = claims.conflicts()

    assert problem.is_error
    assert claims.update(A, ()) == {B}
    assert owned(claims, service("b", created="2024-02-01T00:00:00Z")) == ["ClusterIP"]


def test_swapped_node_ports_end_with_their_new_owners() -> None:
    """R95"""
    claims = Claims()

    def with_node_port(name: str, number: int) -> Service:
        spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]}
        return service(name, clusterIP=f"10.96.0.{ord(name)}", **spec)

    for name, number in (("a", 30001), ("b", 30002), ("a", 30002), ("b", 30001)):
        claim(claims, with_node_port(name, number))

    assert claims.conflicts() == []
    assert owned(claims, with_node_port("a", 30002)) == ["ClusterIP", "NodePort"]
    assert owned(claims, with_node_port("b", 30001)) == ["ClusterIP", "NodePort"]


def test_conflicting_node_port_is_named_by_number() -> None:
    claims = Claims()
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}
    claim(claims, service("a", clusterIP="10.96.0.1", **spec))
    claim(claims, service("b", clusterIP="10.96.0.2", **spec))

    [problem] = claims.conflicts()

    assert problem.message.startswith("NodePort 30001/TCP belongs to Service default/a")


def test_exact_address_and_node_port_do_not_compete() -> None:
    """R92: the kernel looks up the exact frontend first."""
    claims = Claims()
    on_node = service(
        "a", clusterIP="10.96.0.1", externalIPs=["192.0.2.1"], ports=[{"port": 30001}]
    )
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}
    claim(claims, on_node)
    claim(claims, service("b", clusterIP="10.96.0.2", **spec))

    assert claims.conflicts() == []


EVENTS = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([None, "2023-01-01T00:00:00Z", "2024-01-01T00:00:00Z"]),
    st.lists(st.sampled_from(["203.0.113.1", "203.0.113.2", "10.96.0.97"]), max_size=2),
    st.booleans(),  # the Service goes
)


@given(st.lists(EVENTS, max_size=12))
def test_outcome_depends_on_the_last_claims_only_and_every_change_is_told(events: list) -> None:
    """R7, R88: and each frontend has exactly one owner."""
    claims = Claims()
    last: dict[ServiceName, tuple[ServicePort, ...]] = {}
    for name, created, external, is_gone in events:
        service_name = ServiceName("default", name)
        item = service(
            name, created=created, clusterIP=f"10.96.0.{ord(name)}", externalIPs=external
        )
        before = {n: [claims.owned(p) for p in held] for n, held in last.items()}

        new = () if is_gone else ports(item)
        told = claims.update(service_name, new)

        last[service_name] = new
        assert service_name not in told
        for other, frontends in before.items():
            if other != service_name:
                now = [claims.owned(port) for port in last[other]]
                assert (now != frontends) == (other in told)

    fresh = Claims()
    for service_name in sorted(last, reverse=True):
        fresh.update(service_name, last[service_name])
    owners: dict[FrontendKey, ServiceName] = {}
    claimed = set()
    for service_name, held in last.items():
        for port in held:
            claimed.update(frontend.key for frontend in port.frontends)
            assert claims.owned(port) == fresh.owned(port)
            for frontend in claims.owned(port):
                assert owners.setdefault(frontend.key, service_name) == service_name
    assert set(owners) == claimed
    assert claims.conflicts() == fresh.conflicts()
