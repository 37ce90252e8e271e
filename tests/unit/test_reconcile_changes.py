# SPDX-License-Identifier: Apache-2.0
"""Objects and addresses that change while all is in force: R70, R75, R90, R92, R111, R126, R127."""

from __future__ import annotations

import pytest

from tests.support.reconciling import NOTHING, WEB_LINES, Node, web
from tests.support.services import endpoint, endpoint_slice, node, service
from vipbee.address import parse_address
from vipbee.model import ApiObject


def test_new_node_address_serves_node_ports() -> None:
    """R90"""
    node_ = Node(addresses="0.0.0.0/0")
    node_.reconciler.set_local_addresses([parse_address("172.30.0.1")])
    node_.replace("a", [service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}])])
    node_.begin()

    def node_addresses() -> set[str]:
        return {line.split()[1] for line in node_.lines() if line.endswith("NODE|OWN")}

    before = node_addresses()
    node_.reconciler.set_local_addresses([parse_address("172.30.0.2")])
    node_.program()
    after = node_addresses()
    node_.reconciler.set_local_addresses([parse_address("172.30.0.2")])

    assert before == {"172.30.0.1"}
    assert after == {"172.30.0.2"}
    assert node_.program() == NOTHING


def test_node_zone_selects_endpoints() -> None:
    """R70, R75: a change of the Node object alone."""
    objects = [
        service(),
        endpoint_slice(endpoint("10.244.0.1", zones=["a"]), endpoint("10.244.0.2", zones=["b"])),
    ]
    node_ = Node()
    node_.replace("a", [*objects, node("node-a", zone="a")])
    node_.begin()

    node_.replace("a", [*objects, node("node-a", zone="b")])
    node_.program()

    assert "cluster=[10.244.0.2:8080]" in node_.lines()[0]


@pytest.mark.parametrize(
    ("after", "withdrawn"),
    [
        ([endpoint("10.244.0.1", ready=False, serving=False)], True),
        ([], True),
        ([endpoint("10.244.0.1", ready=False, serving=True, terminating=True)], False),
        (["10.244.0.1", "10.244.0.2"], False),
    ],
    ids=["not serving", "gone", "draining", "one more"],
)
def test_applied_says_whether_a_backend_was_withdrawn(
    after: list[dict[str, object] | str], withdrawn: bool
) -> None:
    """R111: only then UDP sockets may be stale."""
    node_ = Node()
    node_.replace("a", [service(), endpoint_slice("10.244.0.1")])
    node_.begin()

    node_.replace("a", [service(), endpoint_slice(*after)])
    applied = node_.program()

    assert applied.entries > 0
    assert applied.backends_withdrawn == withdrawn


def test_service_comes_back_under_its_name() -> None:
    """F19, R126, R127: another ClusterIP, then the old one again."""
    node_ = Node()
    node_.replace("a", web())
    node_.begin()

    node_.replace("a", [])
    node_.program()
    empty = node_.lines()
    node_.replace("a", web(12))
    node_.program()
    elsewhere = node_.lines()[0]
    node_.replace("a", web())
    node_.program()

    assert empty == []
    assert elsewhere.startswith("10.96.0.12:80/TCP")
    assert node_.lines() == WEB_LINES


def test_endpoint_that_moves_between_slices_is_never_gone() -> None:
    """F20, R17: it is in both for a while, whichever event comes first."""
    first, second = (endpoint_slice("10.244.0.1", name=f"web-{number}") for number in (1, 2))
    node_ = Node()
    node_.replace("a", [service(), first])
    node_.begin()
    before = node_.lines()

    for slices in ([first, second], [second], [second, first], [first]):
        node_.replace("a", [service(), *slices])
        assert node_.program().entries == 0

    assert node_.lines() == before == WEB_LINES


def test_order_of_families_that_changes_is_no_change() -> None:
    """F25, R116: the primary family of a dual-stack Service matters to nobody here."""
    vips, families = ["10.96.0.10", "fd00::10"], ["IPv4", "IPv6"]

    def dual(step: int) -> ApiObject:
        return service(
            clusterIP=vips[::step][0], clusterIPs=vips[::step], ipFamilies=families[::step]
        )

    slices = [
        endpoint_slice("10.244.0.1"),
        endpoint_slice("fd00:10:244::1", name="web-2", family="IPv6"),
    ]
    node_ = Node()
    node_.replace("a", [dual(1), *slices])
    node_.begin()
    before = node_.lines()

    node_.replace("a", [dual(-1), *slices])

    assert node_.program().entries == 0
    assert node_.lines() == before


def test_load_balancer_on_a_node_address_and_node_port_of_one_number_serve_both() -> None:
    """F27, R92: neither overwrites the other; the NodePort stays when the load balancer goes."""
    ports = [{"port": 30001}]
    balanced = service("balanced", type="LoadBalancer", ingress=[{"ip": "192.0.2.1"}], ports=ports)
    public = service(
        "public",
        clusterIP="10.96.0.11",
        type="NodePort",
        ports=[{"port": 80, "nodePort": 30001}],
    )
    node_ = Node()
    node_.reconciler.set_local_addresses([parse_address("192.0.2.1")])
    node_.replace("a", [balanced, public])
    node_.begin()

    def frontends() -> set[tuple[str, ...]]:
        return {tuple(line.split()[:3]) for line in node_.lines() if ":30001/TCP" in line}

    on_every_address = ("node:30001/TCP", "NodePort", "default/public:")
    both = frontends()
    node_.replace("a", [public])
    node_.program()

    assert both == {
        on_every_address,
        ("10.96.0.10:30001/TCP", "ClusterIP", "default/balanced:"),
        ("192.0.2.1:30001/TCP", "LoadBalancer", "default/balanced:"),
    }
    assert frontends() == {on_every_address}


def test_node_ports_follow_the_addresses_of_the_node_object() -> None:
    """F30, R90: one that comes, one that goes, none at all; the host's name does not matter."""

    def node_a(*addresses: str) -> ApiObject:
        host_name = ("Hostname", "elsewhere.example.com")
        return node("node-a", addresses=(host_name, *(("InternalIP", a) for a in addresses)))

    item = service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    node_ = Node()
    node_.reconciler.set_local_addresses([parse_address("192.0.2.1")])
    node_.replace("a", [item, node_a("192.0.2.9")])
    node_.begin()

    def after(*addresses: str) -> set[str]:
        node_.replace("a", [item, node_a(*addresses)])
        node_.program()
        return {line.split()[1] for line in node_.lines() if line.endswith("NODE|OWN")}

    assert after("192.0.2.9") == {"192.0.2.9"}
    assert after("192.0.2.9", "2001:db8::9") == {"192.0.2.9", "2001:db8::9"}
    assert after("192.0.2.10") == {"192.0.2.10"}
    assert after() == {"192.0.2.1"}  # no InternalIP: the interfaces decide
