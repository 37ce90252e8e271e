# SPDX-License-Identifier: Apache-2.0
"""Agents of two nodes against one API server: F1, F2, F4, F17, R8, R127-R129."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agent_view import get, problems, wait_log
from tests.support.apiserver.placed import PlacedApiServer
from tests.support.apiserver.real import RealApiServer, assets
from tests.support.eventually import eventually
from tests.support.manifests import Manifest, echo_service
from tests.support.remote import Remote
from vipbee.lab import Lab, endpoints, parse_topology

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    zone: a
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: client-1}
  - name: node-2
    zone: b
    pods:
      - {name: web-1, app: web, servers: [echo]}
      - {name: client-2}
"""
WEB = {"web-0", "web-1"}
Server = PlacedApiServer | RealApiServer
VIP, OTHER_VIP = ("10.96.0.10", 7000), ("10.96.0.20", 7000)
CATCHES_UP_S = 30.0  # the longest pause between attempts is 15 s


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        for client in ("client-1", "client-2"):  # an unserved VIP fails at once
            route = ["ip", "route", "add", "unreachable", "10.96.0.0/16"]
            lab.pod(client).run(route, check=True)
        yield lab


@pytest.fixture(scope="module")
def clients(lab: Lab) -> Iterator[list[Remote]]:
    with Remote(lab.pod("client-1")) as one, Remote(lab.pod("client-2")) as two:
        yield [one, two]


def state(lab: Lab, *services: Manifest) -> dict[str, Any]:
    """These Services, with the pods as endpoints."""
    return endpoints.render_state(lab.blueprint, services, {})


@pytest.fixture(params=["ours", "real"])
def server(lab: Lab, clients: list[Remote], request: pytest.FixtureRequest) -> Iterator[Server]:
    """An API server on node-2 that has Service web, served by both nodes' agents."""
    server: Server
    if request.param == "ours":
        server = PlacedApiServer(lab.node("node-2"), lab.directory)
    elif folder := assets():
        server = RealApiServer(lab.node("node-2"), lab.directory, folder)
    else:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd")
    try:
        server.start(state(lab, echo_service("web", VIP[0])))
        for agent in lab.agents:
            agent.kubeconfig = server.kubeconfig()
        lab.start_agents(("--no-packet-lb",))
        for client in clients:
            eventually(lambda client=client: client.who(VIP) in WEB)
        yield server
    finally:
        for agent in lab.agents:
            agent.kill()
            agent.vipbee(["cleanup"])
        server.close()


def test_agents_follow_the_server(lab: Lab, clients: list[Remote], server: Server) -> None:
    """R8, R125, R127: a Service appears, is created again with another ClusterIP, and goes."""
    server.publish(state(lab, echo_service("web", VIP[0]), echo_service("other", OTHER_VIP[0])))
    for client in clients:
        eventually(lambda client=client: client.who(OTHER_VIP) in WEB)
        assert client.who(VIP) in WEB

    server.publish(state(lab, echo_service("web", OTHER_VIP[0])))
    for client in clients:
        eventually(lambda client=client: client.who(VIP) == "EHOSTUNREACH")
        eventually(lambda client=client: client.who(OTHER_VIP) in WEB)


def test_services_outlive_the_server_and_catch_up(
    lab: Lab, clients: list[Remote], server: Server
) -> None:
    """F4, F16, R129: it comes back with fewer versions, as from a backup, and other Services."""
    agent = lab.agent("node-1")
    web = echo_service("web", VIP[0])
    server.publish(state(lab, web, echo_service("other", OTHER_VIP[0])))
    server.publish(state(lab, web))  # its versions are ahead of those it will start with
    eventually(lambda: clients[0].who(OTHER_VIP) == "EHOSTUNREACH")

    server.kill()
    wait_log(agent, "last good state", within_s=CATCHES_UP_S)
    served = [client.who(VIP) for client in clients]
    # each kind of objects has its own watch, and each notices by itself
    eventually(lambda: server.url in problems(agent).get("API server: services", ""))
    server.start(state(lab, echo_service("other", OTHER_VIP[0])))

    assert set(served) <= WEB
    for client in clients:
        eventually(lambda client=client: client.who(OTHER_VIP) in WEB, within_s=CATCHES_UP_S)
        eventually(lambda client=client: client.who(VIP) == "EHOSTUNREACH", within_s=CATCHES_UP_S)
    eventually(lambda: problems(agent) == {}, within_s=CATCHES_UP_S)


def test_agent_started_without_a_server_serves_what_is_pinned(
    lab: Lab, clients: list[Remote], server: Server
) -> None:
    """F1, R128: nothing is deleted, and what changed meanwhile is applied when it is back."""
    agent = lab.agent("node-1")

    agent.kill()
    server.kill()
    agent.start()
    wait_log(agent, "source unusable", within_s=CATCHES_UP_S)
    served = clients[0].who(VIP)
    server.start(state(lab, echo_service("other", OTHER_VIP[0])))

    assert served in WEB
    eventually(lambda: clients[0].who(OTHER_VIP) in WEB, within_s=CATCHES_UP_S)
    eventually(lambda: clients[0].who(VIP) == "EHOSTUNREACH", within_s=CATCHES_UP_S)


def test_agent_of_a_fresh_node_waits_for_its_server_and_stops_nothing(
    lab: Lab, clients: list[Remote], server: Server
) -> None:
    """F2, R8, R103: alive, not ready, and other traffic goes its way."""
    agent, client = lab.agent("node-1"), clients[0]
    agent.kill()
    agent.vipbee(["cleanup"])
    server.kill()
    log_end = len(agent.log.read_text())

    agent.start()
    wait_log(agent, "source unusable", within_s=CATCHES_UP_S, after=log_end)
    probes = get(agent, "/healthz").status, get(agent, "/livez").status
    reached = client.who((lab.pod("web-1").ipv4, 7000))
    unserved = client.who(VIP)
    server.start(state(lab, echo_service("web", VIP[0])))

    assert probes == (503, 200)
    assert (reached, unserved) == ("web-1", "EHOSTUNREACH")
    eventually(lambda: client.who(VIP) in WEB, within_s=CATCHES_UP_S)


def test_empty_list_after_a_restart_deletes_nothing_at_once(
    lab: Lab, clients: list[Remote], server: Server
) -> None:
    """F17: more than 20 Services, and the new agent is shown none of them."""
    agent = lab.agent("node-1")
    many = [echo_service(f"web-{n}", f"10.96.1.{n}") for n in range(1, 31)]
    server.publish(state(lab, echo_service("web", VIP[0]), *many))
    eventually(lambda: clients[0].who(("10.96.1.30", 7000)) in WEB)

    agent.kill()
    server.kill()
    server.start(state(lab, echo_service("other", OTHER_VIP[0])))
    agent.start()
    eventually(lambda: clients[0].who(OTHER_VIP) in WEB, within_s=CATCHES_UP_S)

    assert clients[0].who(("10.96.1.30", 7000)) in WEB
    complaint = problems(agent)["API server: services, programmed before"]
    assert re.search("31 of 3[12] services", complaint)  # a real server has Service kubernetes


@pytest.mark.parametrize("server", ["ours"], indirect=True)  # a real one allows no such twins
def test_what_is_wrong_becomes_an_event(
    lab: Lab, clients: list[Remote], server: PlacedApiServer
) -> None:
    """Two Services claim one address, by TCP and by UDP: both agents see it, each is said once."""
    twins = [echo_service("web", VIP[0]), echo_service("twin", VIP[0])]
    server.publish(state(lab, *twins))
    for agent in lab.agents:
        eventually(lambda agent=agent: problems(agent) != {})

    eventually(lambda: len(server.events()) >= 2)

    events = server.events()
    assert {event["reason"] for event in events} == {"FrontendConflict"}
    assert {event["regarding"]["kind"] for event in events} == {"Service"}
    assert len({event["note"] for event in events}) == len(events) == 2
    assert set(problems(lab.agent("node-1")).values()) <= {event["note"] for event in events}
    assert {client.who(VIP) for client in clients} <= WEB


@pytest.mark.parametrize("server", ["ours"], indirect=True)
def test_node_without_its_object_is_alive_and_not_wanted_by_load_balancers(
    lab: Lab, clients: list[Remote], server: PlacedApiServer
) -> None:
    """F30, R104: the own Node goes, as when it is deleted; the reason is told."""
    agent = lab.agent("node-1")
    whole = state(lab, echo_service("web", VIP[0]))
    others = [node for node in whole["nodes"] if node["metadata"]["name"] != "node-1"]

    server.publish({**whole, "nodes": others})
    eventually(lambda: get(agent, "/healthz").status == 503)
    live, told = get(agent, "/livez").status, problems(agent)
    served = clients[0].who(VIP)
    server.publish(whole)
    eventually(lambda: get(agent, "/healthz").status == 200)

    assert live == 200
    assert "no Node of this name" in told["Node node-1"]
    assert served in WEB
