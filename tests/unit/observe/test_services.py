# SPDX-License-Identifier: Apache-2.0
"""What `service list` and `backend list` say about tables."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.support.readings import (
    LOCAL,
    NOT_CHOSEN,
    READY,
    TERMINATING,
    ReadableTables,
    backend,
    frontend,
    node_port,
    service_port,
)
from vipbee.abi import AddressFlag, BackendFlag, FrontendKind, MapName
from vipbee.core.plan import Op
from vipbee.observe.readings import read
from vipbee.observe.services import Wanted, backends, services


@pytest.fixture
def tables() -> ReadableTables:
    return ReadableTables()


def test_service_is_shown_with_its_names_frontends_and_backends(tables: ReadableTables) -> None:
    tables.program(
        service_port(
            "web",
            frontend("10.96.0.10"),
            port_name="http",
            backends=(backend("10.244.2.2"), backend("10.244.1.2", LOCAL)),
            affinity_timeout_s=10800,
            endpoints=3,
        )
    )

    (view,) = services(read(tables))

    assert (str(view), view.port_name, view.port) == ("default/web", "http", 80)
    assert (view.protocol, view.family, view.type) == ("TCP", "IPv4", "ClusterIP")
    assert (view.affinity_timeout_seconds, view.endpoints) == (10800, 3)
    assert [str(f) for f in view.frontends] == ["10.96.0.10:80/TCP"]
    assert view.frontends[0].type == "ClusterIP"
    assert [str(b) for b in view.backends] == ["10.244.1.2:8080/TCP", "10.244.2.2:8080/TCP"]
    assert [b.node_local for b in view.backends] == [True, False]


def test_ipv6_frontend_is_in_brackets(tables: ReadableTables) -> None:
    tables.program(service_port("web", frontend("fd00::10"), backends=(backend("fd00:1::2"),)))

    (view,) = services(read(tables))

    assert str(view.frontends[0]) == "[fd00::10]:80/TCP"
    assert str(view.backends[0]) == "[fd00:1::2]:8080/TCP"


@pytest.mark.parametrize(
    ("flags", "state", "is_selected"),
    [
        (READY, "active", True),
        (LOCAL, "active", True),
        (TERMINATING, "terminating", False),
        (TERMINATING | BackendFlag.IN_CLUSTER, "terminating", True),  # R28: nobody else is left
        (NOT_CHOSEN, "not selected", False),
    ],
)
def test_state_of_backend(
    tables: ReadableTables, flags: int, state: str, is_selected: bool
) -> None:
    tables.program(
        service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2", flags),))
    )

    (view,) = services(read(tables))[0].backends

    assert (view.state, view.selected) == (state, is_selected)


def test_node_port_is_a_star_with_the_node_addresses(tables: ReadableTables) -> None:
    """R89, R90, R91: where a NodePort is served; loopback comes last."""
    own = AddressFlag.NODE | AddressFlag.OWN
    tables.program(
        service_port("web", frontend("10.96.0.10"), node_port(30080), backends=()),
        nodes={"127.0.0.1": own | AddressFlag.HOST_ONLY, "172.30.0.1": own, "fd00::1": own},
    )

    cluster_ip, nodeport = services(read(tables))[0].frontends

    assert str(nodeport) == "*:30080/TCP"
    assert nodeport.type == "NodePort"
    assert nodeport.node_addresses == ["172.30.0.1", "127.0.0.1"]
    assert cluster_ip.node_addresses == []


def test_local_policy_of_cluster_ip_counts_local_backends_only(tables: ReadableTables) -> None:
    """R43, R50: iTP=Local decides for a ClusterIP; inside, eTP=Local does not."""
    tables.program(
        service_port(
            "web",
            frontend("10.96.0.10", local=True),
            frontend("192.0.2.1", FrontendKind.LOAD_BALANCER, local=True),
            backends=(backend("10.244.1.2", LOCAL), backend("10.244.2.2")),
        )
    )

    views = services(read(tables))[0].frontends

    assert [(f.type, f.policy, f.backends) for f in views] == [
        ("ClusterIP", "Local", 1),
        ("LoadBalancer", "Local", 2),
    ]


def test_active_connections_are_opened_minus_closed_and_never_negative(
    tables: ReadableTables,
) -> None:
    tables.program(
        service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2"),)),
        service_port("odd", frontend("10.96.0.11"), backends=(backend("10.244.1.3"),)),
    )
    tables.count("web", opened=7, closed=3, refused=2, unreachable=1, affinity_hits=5)
    tables.count("odd", opened=1, closed=2)  # closed was read a moment later
    tables.count_backend("10.244.1.2", opened=7, closed=4)

    odd, web = services(read(tables))

    assert msgspec.structs.asdict(web.connections) == {
        "opened": 7,
        "active": 4,
        "refused": 2,
        "unreachable": 1,
        "affinity_hits": 5,
    }
    assert odd.connections.active == 0
    assert (web.backends[0].opened, web.backends[0].active) == (7, 3)


def test_services_are_sorted_and_filtered(tables: ReadableTables) -> None:
    tables.program(
        service_port("web", frontend("10.96.0.10")),
        service_port("dns", frontend("10.96.0.11"), namespace="kube-system"),
        service_port("api", frontend("10.96.0.12")),
        service_port("web", frontend("10.96.0.13"), namespace="other"),
    )
    readings = read(tables)

    assert [str(s) for s in services(readings)] == [
        "default/api",
        "default/web",
        "kube-system/dns",
        "other/web",
    ]
    assert [str(s) for s in services(readings, Wanted(name="web"))] == ["default/web", "other/web"]
    assert [str(s) for s in services(readings, Wanted("default"))] == ["default/api", "default/web"]
    assert services(readings, Wanted("default", "dns")) == []


def test_service_without_backend_or_frontend_is_still_listed(tables: ReadableTables) -> None:
    tables.program(service_port("web"))

    (view,) = services(read(tables))

    assert (view.frontends, view.backends) == ([], [])


def test_entries_without_a_name_appear_by_number(tables: ReadableTables) -> None:
    """An agent killed between two operations leaves them; they forward, so they are shown."""
    tables.program(service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2"),)))
    ids = tables.snapshot().service_ids
    tables.tables.apply(Op(MapName.SERVICES, ids, None))

    (view,) = services(read(tables))

    assert str(view) == f"#{ids[0]}"
    assert [str(f) for f in view.frontends] == ["10.96.0.10:80/TCP"]
    assert [str(b) for b in view.backends] == ["10.244.1.2:8080/TCP"]


def test_backends_are_sorted_by_number_and_name_their_services(tables: ReadableTables) -> None:
    shared = backend("10.244.1.10")
    tables.program(
        service_port("web", frontend("10.96.0.10"), backends=(shared, backend("10.244.1.9"))),
        service_port("api", frontend("10.96.0.11"), backends=(shared,)),
    )

    found = backends(read(tables))

    assert [(b.address, b.name) for b in found] == [
        ("10.244.1.9", "web"),
        ("10.244.1.10", "api"),
        ("10.244.1.10", "web"),
    ]


def test_json_of_a_service_has_the_documented_members(tables: ReadableTables) -> None:
    """The schema in observe/view.py: a member that goes or is renamed breaks scripts."""
    tables.program(service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2"),)))

    (document,) = msgspec.json.decode(msgspec.json.encode(services(read(tables))))

    assert list(document) == [
        *("namespace", "name", "portName", "port", "protocol", "family", "type"),
        *("affinityTimeoutSeconds", "endpoints", "connections", "frontends", "backends"),
    ]
    assert document["frontends"] == [
        {
            "address": "10.96.0.10",
            "port": 80,
            "protocol": "TCP",
            "type": "ClusterIP",
            "policy": "Cluster",
            "nodeAddresses": [],
            "backends": 1,
        }
    ]
    assert document["backends"] == [
        {
            "address": "10.244.1.2",
            "port": 8080,
            "protocol": "TCP",
            "state": "active",
            "selected": True,
            "nodeLocal": False,
            "opened": 0,
            "active": 0,
        }
    ]


def test_reading_does_not_change_the_tables(tables: ReadableTables) -> None:
    tables.program(service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2"),)))
    before = tables.snapshot()

    services(read(tables))

    assert np.array_equal(before.backends, tables.snapshot().backends)
