# SPDX-License-Identifier: Apache-2.0
"""A whole cluster, from state file to answer: real programs reach real servers through VIPs.

What each hook does in every corner is tests/bpf's business; here it is that agents,
both kinds of pod network, nodes, pods and changes work together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from vipbee.lab import Lab, parse_topology
from vipbee.lab.endpoints import EndpointState
from vipbee.lab.probes import Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

LAB = f"c{os.getpid() % 100000}"
TOPOLOGY = """
network: {network}
nodes:
  - name: node-1
    pods:
      - {{name: web-0, app: web, servers: [nginx, echo]}}
      - {{name: dns-0, app: dns, servers: [dns]}}
      - {{name: client-1}}
  - name: node-2
    pods:
      - {{name: web-1, app: web, servers: [nginx, echo]}}
      - {{name: host-0, app: host, hostNetwork: true, servers: ["echo:7100"]}}
      - {{name: client-2}}
services:
  - metadata: {{name: web}}
    spec:
      type: NodePort
      clusterIPs: [10.96.0.10, "fd00:10:96::10"]
      selector: {{app: web}}
      ports:
        - {{name: http, port: 80, targetPort: 8080, nodePort: 30080}}
        - {{name: echo, port: 7000}}
  - metadata: {{name: dns, namespace: kube-system}}
    spec:
      clusterIPs: [10.96.0.53, "fd00:10:96::53"]
      selector: {{app: dns}}
      ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53}}]
  - metadata: {{name: host}}
    spec:
      clusterIPs: [10.96.0.20, "fd00:10:96::20"]
      selector: {{app: host}}
      ports: [{{port: 7000, targetPort: 7100}}]
"""
WEB = {4: "10.96.0.10", 6: "[fd00:10:96::10]"}
DNS = {4: "10.96.0.53", 6: "fd00:10:96::53"}
WEB_PODS = {"web-0", "web-1"}
CHANGE_TIMEOUT_S = 5.0
"""Far above the promised second: a busy test machine must not fail it."""


@pytest.fixture(scope="module", params=["routed", "bridged"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    topology = parse_topology(TOPOLOGY.format(network=request.param))
    with Lab.up(topology, name=LAB) as lab:
        yield lab


@pytest.fixture
def all_ready(lab: Lab) -> Iterator[Lab]:
    """The lab, with every endpoint back in its Service afterwards."""
    yield lab
    for pod in WEB_PODS:
        lab.add_endpoint(pod)
    wait_until(lambda: answers(lab, 20) == WEB_PODS)


def curl(lab: Lab, place: str, host: str) -> tuple[int, str]:
    """Exit code and answer of one request."""
    done = lab.place(place).run(["curl", "-sS", "--max-time", "5", f"http://{host}/"])
    return done.returncode, done.stdout.strip()


def answers(lab: Lab, requests: int) -> set[str]:
    """Which pods answer `requests` new connections from client-1."""
    argv = ["curl", "-s", "-H", "Connection: close", f"http://{WEB[4]}/?[1-{requests}]"]
    return set(lab.pod("client-1").run(argv).stdout.split())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + CHANGE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the change did not become live"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("place", ["client-1", "client-2", "node-1", "node-2", "host-0"])
def test_cluster_ip_is_reached_from_every_pod_and_node(lab: Lab, place: str, family: int) -> None:
    code, answer = curl(lab, place, WEB[family])

    assert code == 0
    assert answer in WEB_PODS


@pytest.mark.parametrize("family", [4, 6])
def test_a_backend_reaches_itself_through_its_own_service(lab: Lab, family: int) -> None:
    """Hairpin, without a packet that leaves the pod."""
    seen = {curl(lab, "web-0", WEB[family]) for _ in range(20)}

    assert seen == {(0, "web-0"), (0, "web-1")}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("place", ["client-1", "node-1"])
@pytest.mark.parametrize("node", ["node-1", "node-2"])
def test_node_port_is_reached_from_inside_on_every_node(
    lab: Lab, node: str, place: str, family: int
) -> None:
    """R50: dialled from inside, a NodePort is a connection to a backend."""
    address = lab.node(node).address(family)

    code, answer = curl(lab, place, f"{f'[{address}]' if family == 6 else address}:30080")

    assert code == 0
    assert answer in WEB_PODS


@pytest.mark.parametrize(("place", "code"), [("node-1", 0), ("client-1", 7)])
def test_node_port_on_loopback_is_for_programs_of_the_node_only(
    lab: Lab, place: str, code: int
) -> None:
    """R91: a pod's loopback is its own, nothing listens there."""
    assert curl(lab, place, "127.0.0.1:30080")[0] == code


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_accepts_the_answer_of_a_dns_service(lab: Lab, transport: str, family: int) -> None:
    """R121: dig drops answers that do not come from the address it asked."""
    argv = ["dig", transport, "+short", "+tries=1", "+timeout=5", f"@{DNS[family]}"]

    done = lab.pod("client-2").run([*argv, "whoami.lab", "TXT"])

    assert done.stdout == '"dns-0"\n'


@pytest.mark.parametrize("address", ["10.96.0.20", "fd00:10:96::20"])
def test_a_host_network_pod_serves_a_service(lab: Lab, address: str) -> None:
    with Stream(lab.pod("client-1"), (address, 7000)) as stream:
        report = stream.run_for(5)

    assert (set(report.answers), report.failures) == ({"host-0"}, ())


def test_an_unready_backend_gets_no_new_connections_until_it_is_ready_again(
    all_ready: Lab,
) -> None:
    """R28."""
    all_ready.set_ready("web-0", False)
    wait_until(lambda: answers(all_ready, 20) == {"web-1"})

    all_ready.set_ready("web-0", True)
    wait_until(lambda: answers(all_ready, 20) == WEB_PODS)


def test_a_terminating_backend_serves_when_there_is_no_other(all_ready: Lab) -> None:
    """R28: serving terminating endpoints are the fallback."""
    leaving = EndpointState(ready=False, serving=True, terminating=True)

    all_ready.set_endpoint("web-0", leaving)
    wait_until(lambda: answers(all_ready, 20) == {"web-1"})
    all_ready.remove_endpoint("web-1")
    wait_until(lambda: answers(all_ready, 20) == {"web-0"})


@pytest.mark.parametrize("family", [4, 6])
def test_a_service_without_endpoints_refuses_at_once(all_ready: Lab, family: int) -> None:
    """R35; curl says 7 for refused, and 28 would be a timeout."""
    for pod in WEB_PODS:
        all_ready.remove_endpoint(pod)

    wait_until(lambda: curl(all_ready, "client-1", WEB[family])[0] != 0)
    argv = ["curl", "-sv", "--max-time", "5", f"http://{WEB[family]}/"]
    done = all_ready.pod("client-1").run(argv)

    assert done.returncode == 7
    assert "Connection refused" in done.stderr


def test_no_request_fails_while_a_backend_is_removed(all_ready: Lab) -> None:
    with Stream(all_ready.pod("client-1"), ("10.96.0.10", 7000)) as stream:
        stream.run_for(100)
        all_ready.remove_endpoint("web-1")
        wait_until(lambda: not stream.run_for(50).answers["web-1"])
        stream.run_for(100)

    assert stream.total.failures == ()


def test_no_connection_is_lost_while_the_agent_is_killed_in_a_loop(lab: Lab) -> None:
    """F39: 50 long connections and a stream of new ones; also killed before it is ready."""
    agent = lab.agent("node-1")
    with Stream(lab.pod("client-1"), ("10.96.0.10", 7000), held=50) as stream:
        for round_ in range(6):
            agent.kill()
            stream.run_for(50)
            agent.start()
            if round_ % 2:
                agent.wait_ready()
            stream.run_for(50)
        agent.kill()
        agent.start()
        agent.wait_ready()
        stream.run_for(200)  # every held connection more than once

    assert stream.total.failures == ()
    assert set(stream.total.answers) == WEB_PODS


def test_forwarding_goes_on_when_the_agent_is_stopped(lab: Lab) -> None:
    agent = lab.agent("node-1")

    agent.stop()
    answer = curl(lab, "client-1", WEB[4])
    agent.start()
    agent.wait_ready()

    assert answer[1] in WEB_PODS
