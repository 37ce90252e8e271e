# SPDX-License-Identifier: Apache-2.0
"""What changes while clients are at work: no connection is lost that need not be.

Every test has Services and VIPs of its own, so none waits for another's to go.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.support.eventually import eventually
from tests.support.manifests import echo_service
from tests.support.remote import Address, Remote
from tests.support.web import url
from vipbee.lab import Lab, parse_topology
from vipbee.lab.endpoints import EndpointState
from vipbee.lab.probes import Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo, nginx]}
      - {name: other-0, app: other, servers: [echo, nginx]}
      - {name: client-1}
  - name: node-2
    pods:
      - {name: web-1, app: web, servers: [echo, nginx]}
      - {name: web-2, app: web, servers: [echo, nginx]}
      - {name: client-2}
"""
WEB = ("web-0", "web-1", "web-2")
TERMINATING = EndpointState(ready=False, serving=True, terminating=True)
LIVE_WITHIN_S = 1.0


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agent_options=("--no-packet-lb",)) as lab:
        fail_unserved_vips_at_once(lab)
        yield lab


def fail_unserved_vips_at_once(lab: Lab) -> None:
    """Route VIPs nowhere already in the client: routers send one unreachable a second."""
    for vips in ("10.96.0.0/16", "203.0.113.0/24", "198.51.100.0/24"):
        for place in ("client-1", "client-2"):
            lab.pod(place).run(["ip", "route", "add", "unreachable", vips], check=True)


@pytest.fixture(autouse=True)
def _all_ready(lab: Lab) -> Iterator[None]:
    yield
    lab.services.clear()
    for pod in WEB:
        lab.add_endpoint(pod)


_numbers = itertools.count(1)


@pytest.fixture
def vip() -> str:
    return new_vip()


def new_vip() -> str:
    return str(IPv4Address("10.96.1.0") + next(_numbers))


@pytest.fixture
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


def publish(lab: Lab, *services: dict[str, object]) -> None:
    lab.services[:] = services
    lab.publish()


def serve(lab: Lab, client: Remote, vip: str, **spec: object) -> Address:
    """Publish one Service at `vip` and wait until it answers."""
    publish(lab, echo_service("web", vip, **spec))
    eventually(lambda: client.who((vip, 7000)) in WEB, what=f"{vip} serves")
    return vip, 7000


# ---- endpoints come and go ---------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_no_request_fails_while_endpoints_come_and_go(
    lab: Lab, client: Remote, family: int
) -> None:
    """R32: at each instant one endpoint serves. R34: 30 long connections stay where they are."""
    ipv4 = new_vip()
    ipv6 = f"fd00:10:96::{ipv4.rpartition('.')[2]}"
    publish(lab, echo_service("web", ipv4, ipv6))
    address = (ipv4 if family == 4 else ipv6, 7000)
    eventually(lambda: client.who(address) in WEB)

    with Stream(lab.pod("client-1"), address, held=30) as stream:
        for back, gone in itertools.pairwise(WEB[-1:] + WEB * 3):
            lab.add_endpoint(back)
            lab.remove_endpoint(gone)
            eventually(lambda: not stream.run_for(30).answers[gone])  # noqa: B023
        lab.add_endpoint(gone)
        for pod in WEB:  # none Ready: the terminating ones serve (R28)
            lab.set_endpoint(pod, TERMINATING)
        eventually(lambda: len(stream.run_for(60).answers) == 3)
        lab.set_ready("web-1", True)
        eventually(lambda: set(stream.run_for(30).answers) == {"web-1"})

    assert stream.total.failures == ()
    assert stream.total.held_exchanges > 300


def test_no_curl_fails_while_endpoints_come_and_go(lab: Lab, client: Remote, vip: str) -> None:
    """R32 with a real client, one connection a request."""
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "echo", "port": 7000}]
    address = serve(lab, client, vip, ports=ports)
    argv = ["curl", "-sS", "--fail-early", "--max-time", "3", "--rate", "6000/m"]
    argv += ["-H", "Connection: close", url(vip, 80, "?[1-1000000]")]
    curl = lab.pod("client-2").popen(argv)

    for gone in WEB * 2:
        lab.remove_endpoint(gone)
        eventually(lambda: gone not in {client.who(address) for _ in range(12)})  # noqa: B023
        lab.add_endpoint(gone)
        eventually(lambda: gone in {client.who(address) for _ in range(12)})  # noqa: B023

    assert curl.poll() is None  # it would have ended with the first failure
    curl.terminate()
    answers, _ = curl.communicate()
    assert set(answers.split()) == set(WEB)


def test_established_connection_outlives_endpoint_and_service(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R34, R36: also when nothing of the Service is left."""
    address = serve(lab, client, vip)
    tcp = client.tcp()
    tcp.connect(address)
    name = tcp.ask()

    lab.remove_endpoint(name)
    eventually(lambda: name not in {client.who(address) for _ in range(12)})
    after_endpoint = tcp.ask()
    publish(lab)
    eventually(lambda: client.who(address) not in WEB)

    assert (after_endpoint, tcp.ask()) == (name, name)
    assert tcp.getpeername() == address


def test_terminating_endpoint_gets_no_new_connection_while_others_are_ready(
    lab: Lab, client: Remote, vip: str
) -> None:
    """F23, R28, R30: then serving and terminating ones; unready ones never."""
    address = serve(lab, client, vip)

    lab.set_endpoint("web-0", TERMINATING)
    lab.set_ready("web-1", False)
    eventually(lambda: {client.who(address) for _ in range(12)} == {"web-2"})
    lab.remove_endpoint("web-2")
    eventually(lambda: {client.who(address) for _ in range(12)} == {"web-0"})
    lab.remove_endpoint("web-0")
    eventually(lambda: client.who(address) == "ECONNREFUSED")


@pytest.mark.parametrize("round_", range(3))
def test_change_is_live_within_a_second_of_the_rename(
    lab: Lab, client: Remote, vip: str, round_: int
) -> None:
    """interface.md §3; measured from after rename(2) to the first connect that sees it."""
    address = serve(lab, client, vip)

    publish(lab, echo_service("web", vip, selector={"app": "other"}))
    took_s = eventually(lambda: client.who(address) == "other-0")

    print(f"live after {took_s:.3f} s")
    assert took_s < LIVE_WITHIN_S


# ---- UDP flows ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["client-1", "client-2", "node-1"])
def test_connected_udp_sockets_of_a_removed_endpoint_are_released_and_no_others(
    lab: Lab, client: Remote, vip: str, place: str
) -> None:
    """R110, R111, R114: in pods' namespaces and the node's; the next connect is served."""
    address = serve(lab, client, vip)
    with Remote(lab.place(place)) as remote:
        eventually(lambda: remote.who(address) in WEB)
        sockets = [remote.udp() for _ in range(12)]
        for udp in sockets:
            udp.connect(address)
        names = [udp.ask() for udp in sockets]
        gone = names[0]

        lab.remove_endpoint(gone)

        with pytest.raises(ConnectionAbortedError):
            sockets[0].recv()
        sockets[0].connect(address)
        assert sockets[0].ask() in set(WEB) - {gone}
        kept = [(udp, name) for udp, name in zip(sockets, names, strict=True) if name != gone]
        assert [udp.ask() for udp, _ in kept] == [name for _, name in kept]
        assert len(kept) > 0


def test_connected_udp_socket_stays_with_a_terminating_endpoint_that_serves(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R110: regardless of Ready; new flows go elsewhere (R28)."""
    address = serve(lab, client, vip)
    connected, unconnected = client.udp(), client.udp()
    connected.connect(address)
    name, other = connected.ask(), unconnected.ask_at(address)[0]

    lab.set_endpoint(name, TERMINATING)
    lab.set_endpoint(other, TERMINATING)
    eventually(lambda: not {name, other} & {client.who(address, "udp") for _ in range(12)})

    assert [connected.ask() for _ in range(5)] == [name] * 5
    assert [unconnected.ask_at(address)[0] for _ in range(5)] == [other] * 5


def test_unconnected_udp_flow_moves_when_its_endpoint_is_removed(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R110, R111: the same socket, without an error in between."""
    address = serve(lab, client, vip)
    udp = client.udp()
    name, _ = udp.ask_at(address)
    assert {udp.ask_at(address)[0] for _ in range(20)} == {name}

    lab.remove_endpoint(name)
    eventually(lambda: udp.ask_at(address)[0] != name)
    second = udp.ask_at(address)[0]
    lab.add_endpoint(name)
    eventually(lambda: name in {client.who(address) for _ in range(12)})

    assert {udp.ask_at(address) for _ in range(20)} == {(second, address)}


def test_udp_client_reaches_a_service_that_gets_its_first_endpoint(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R112: one socket that kept sending; R113: and is refused when the last one goes."""
    address = serve(lab, client, vip)
    udp = client.udp()
    udp.ask_at(address)

    def is_refused() -> bool:
        try:
            udp.ask_at(address)
        except ConnectionRefusedError:
            return True
        return False

    for pod in WEB:
        lab.remove_endpoint(pod)
    eventually(is_refused)
    lab.add_endpoint("web-2")
    eventually(lambda: not is_refused())

    assert udp.ask_at(address) == ("web-2", address)


def test_udp_flow_ends_with_its_service(lab: Lab, client: Remote, vip: str) -> None:
    """R113: a deleted Service's datagrams do not reach the old endpoint."""
    address = serve(lab, client, vip)
    unconnected, connected = client.udp(), client.udp()
    unconnected.ask_at(address)
    connected.connect(address)
    connected.ask()

    publish(lab)

    with pytest.raises(ConnectionAbortedError):
        connected.recv()
    unconnected.settimeout(0.2)
    with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
        unconnected.ask_at(address)


# ---- Services change ---------------------------------------------------------------------


def test_recreated_service_serves_only_its_new_cluster_ip(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R127, F19; the old address is then re-used by another Service."""
    address = serve(lab, client, vip)
    new = new_vip()

    publish(lab, echo_service("web", new))
    eventually(lambda: client.who((new, 7000)) in WEB)
    eventually(lambda: client.who(address) not in WEB)
    publish(lab, echo_service("web", new), echo_service("next", vip, selector={"app": "other"}))
    eventually(lambda: client.who(address) == "other-0")

    assert client.who((new, 7000)) in WEB


def test_type_changes_take_effect_in_place(lab: Lab, client: Remote, vip: str) -> None:
    """R131, R1: ExternalName, ClusterIP, NodePort, LoadBalancer and all the way back."""
    number = int(vip.rpartition(".")[2])
    frontends = {
        "ClusterIP": (vip, 7000),
        "NodePort": (lab.node("node-1").ipv4, 31000 + number),
        "LoadBalancer": (f"203.0.113.{number}", 7000),
    }
    ports = [{"name": "echo", "port": 7000, "nodePort": 31000 + number}]
    served_by = {
        "ExternalName": set(),
        "ClusterIP": {"ClusterIP"},
        "NodePort": {"ClusterIP", "NodePort"},
        "LoadBalancer": {"ClusterIP", "NodePort", "LoadBalancer"},
    }

    def serving() -> set[str]:
        return {kind for kind, address in frontends.items() if client.who(address) in WEB}

    for type_ in (*served_by, *reversed(served_by)):
        service = echo_service("web", vip, type=type_, externalName="x.example", ports=ports)
        if type_ == "LoadBalancer":
            service["status"] = {
                "loadBalancer": {"ingress": [{"ip": frontends["LoadBalancer"][0]}]}
            }
        if type_ == "ClusterIP":
            del service["spec"]["ports"][0]["nodePort"]
        publish(lab, service)
        eventually(lambda: serving() == served_by[type_], what=type_)  # noqa: B023
        ports = [{"name": "echo", "port": 7000, "nodePort": 31000 + number}]


def test_contested_external_ip_is_handed_over_without_a_failure(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R88, F26, R126: the oldest Service owns it; backends are never mixed."""
    external = "198.51.100.88"
    old = echo_service("old", vip, externalIPs=[external])
    young = echo_service("young", new_vip(), externalIPs=[external], selector={"app": "other"})
    old["metadata"]["creationTimestamp"] = "2024-01-01T00:00:00Z"
    young["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    publish(lab, young, old)
    eventually(lambda: client.who((external, 7000)) in WEB)

    with Stream(lab.pod("client-1"), (external, 7000)) as stream:
        contested = stream.run_for(60)
        publish(lab, young)
        eventually(lambda: set(stream.run_for(30).answers) == {"other-0"})
        publish(lab, young, old)
        eventually(lambda: "other-0" not in stream.run_for(30).answers)

    assert set(contested.answers) <= set(WEB)
    assert stream.total.failures == ()


def test_swapped_node_ports_serve_their_new_owners(lab: Lab, client: Remote, vip: str) -> None:
    """R95, R126: in one step, without a failure."""
    node, second_vip = lab.node("node-2").ipv4, new_vip()

    def services(web: int, other: int) -> list[dict[str, object]]:
        return [
            echo_service(
                name,
                address,
                type="NodePort",
                selector={"app": name},
                ports=[{"name": "echo", "port": 7000, "nodePort": port}],
            )
            for name, address, port in (("web", vip, web), ("other", second_vip, other))
        ]

    publish(lab, *services(32001, 32002))
    eventually(lambda: client.who((node, 32001)) in WEB and client.who((node, 32002)) == "other-0")
    with Stream(lab.pod("client-2"), (node, 32001)) as stream:
        publish(lab, *services(32002, 32001))
        eventually(lambda: set(stream.run_for(30).answers) == {"other-0"})
    eventually(lambda: client.who((node, 32002)) in WEB)

    assert stream.total.failures == ()


def test_internal_policy_changes_live(lab: Lab, client: Remote, vip: str) -> None:
    """R54 for ClusterIPs, R43: Cluster, Local, Local without endpoint, Cluster."""
    address = serve(lab, client, vip)

    publish(lab, echo_service("web", vip, internalTrafficPolicy="Local"))
    eventually(lambda: {client.who(address) for _ in range(12)} == {"web-0"})
    lab.remove_endpoint("web-0")
    eventually(lambda: client.who(address) == "EHOSTUNREACH")
    publish(lab, echo_service("web", vip))
    eventually(lambda: {client.who(address) for _ in range(16)} == {"web-1", "web-2"})


def test_external_policy_change_does_not_disturb_the_cluster(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R54, R50: seen from inside both policies serve all endpoints."""
    number = int(vip.rpartition(".")[2])
    ports = [{"name": "echo", "port": 7000, "nodePort": 32100 + number}]
    address = (lab.node("node-1").ipv4, 32100 + number)

    def policy(value: str) -> dict[str, object]:
        return echo_service("web", vip, type="NodePort", ports=ports, externalTrafficPolicy=value)

    publish(lab, policy("Cluster"))
    eventually(lambda: client.who(address) in WEB)
    with Stream(lab.pod("client-1"), address) as stream:
        for value in ("Local", "Cluster", "Local"):
            publish(lab, policy(value))
            eventually(lambda: len(stream.run_for(60).answers) == 3)

    assert stream.total.failures == ()


def test_ports_are_renamed_added_and_removed_live(lab: Lab, client: Remote, vip: str) -> None:
    """R15: the old identity is withdrawn, R14: its sibling goes on."""
    address = serve(lab, client, vip)
    moved = {"name": "moved", "port": 7001, "targetPort": 7000}

    with Stream(lab.pod("client-1"), address) as stream:
        publish(lab, echo_service("web", vip, ports=[{"name": "echo", "port": 7000}, moved]))
        eventually(lambda: client.who((vip, 7001)) in WEB)
        eventually(lambda: client.who(address, "udp") == "ECONNREFUSED")
        stream.run_for(30)
    publish(lab, echo_service("web", vip, ports=[moved]))
    eventually(lambda: client.who(address) == "ECONNREFUSED")

    assert stream.total.failures == ()
    assert client.who((vip, 7001)) in WEB


# ---- affinity ----------------------------------------------------------------------------


def test_affinity_holds_fails_over_and_survives_an_agent_restart(
    lab: Lab, client: Remote, vip: str
) -> None:
    """R61, R62 (TCP and UDP ports apart), R64, R65, R67."""
    plain = (new_vip(), 7000)
    sticky = echo_service("web", vip, sessionAffinity="ClientIP")
    publish(lab, sticky, echo_service("plain", plain[0]))
    address = (vip, 7000)
    eventually(lambda: client.who(address) in WEB)

    def answers() -> set[str]:
        return {client.who(address) for _ in range(12)}

    (first,) = answers()
    lab.agent("node-1").restart()
    after_restart = answers()
    lab.remove_endpoint(first)
    eventually(lambda: first not in answers())
    (second,) = answers()
    lab.add_endpoint(first)
    eventually(lambda: client.who(plain) == first, what=f"{first} is back")
    after_return = answers()
    publish(lab, echo_service("web", vip))
    eventually(lambda: len(answers()) == 3)

    assert after_restart == {first}
    assert after_return == {second}  # a returning endpoint does not reclaim its clients
