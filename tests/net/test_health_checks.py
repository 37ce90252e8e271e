# SPDX-License-Identifier: Apache-2.0
"""What a load balancer learns at healthCheckNodePort of two nodes: R96–R101, R117."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.agent_view import get, problems
from tests.support.eventually import eventually
from tests.support.manifests import Manifest, echo_service
from vipbee.lab import Lab, parse_topology
from vipbee.lab.endpoints import EndpointState
from vipbee.lab.place import Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: web-1, app: web, servers: [echo]}
  - name: node-2
    pods:
      - {name: client-2}
"""
PORT, OTHER_PORT = 32100, 32101
VIP, VIP6 = "10.96.0.10", "fd00:10:96::10"
RETRIES_WITHIN_S = 15.0


def local_service(name: str = "web", *vips: str, port: int = PORT, **spec: Any) -> Manifest:
    fields = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": port,
    }
    return echo_service(name, *(vips or (VIP, VIP6)), **(fields | spec))


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        lab.services[:] = [local_service()]
        lab.publish()
        lab.start_agents(("--no-packet-lb",))
        yield lab


@pytest.fixture
def two_nodes(lab: Lab) -> Lab:
    lab.services[:] = [local_service()]
    for pod in ("web-0", "web-1"):
        lab.add_endpoint(pod)
    lab.publish()
    eventually(lambda: check(lab.node("node-1")) == (200, 2))
    return lab


def ask(place: Place, host: str, port: int = PORT) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body as a load balancer outside sees them; 0 if nobody answers."""
    argv = ["curl", "-s", "-i", "-m", "5", f"http://{host}:{port}/healthz"]
    answer = place.run(argv).stdout
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    lines = head.splitlines()
    if not lines:
        return 0, {}, None
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, json.loads(body)


def check(node: Place, port: int = PORT) -> tuple[int, int]:
    """(status, local endpoints) of a node, asked on loopback; (0, 0) if nobody answers."""
    status, _, body = ask(node, "127.0.0.1", port)
    return status, body["localEndpoints"] if body else 0


def test_every_node_answers_with_its_own_endpoints(two_nodes: Lab) -> None:
    """R96, R97, R98, R117: in both families, asked from another node at the node's address."""
    one, two = two_nodes.node("node-1"), two_nodes.node("node-2")

    for host in (one.ipv4, f"[{one.ipv6}]"):
        status, headers, body = ask(two, host)
        assert status == 200
        assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
        assert body["service"] == {"namespace": "default", "name": "web"}
        assert body["serviceProxyHealthy"] is True
    for host in (two.ipv4, f"[{two.ipv6}]"):
        assert ask(one, host)[0] == 503


def test_count_follows_endpoints_and_terminating_ones_do_not_count(two_nodes: Lab) -> None:
    """R99: the last one drains; it is served still, but no new load is wanted."""
    node = two_nodes.node("node-1")

    two_nodes.remove_endpoint("web-1")
    two_nodes.publish()
    eventually(lambda: check(node) == (200, 1))
    draining = EndpointState(ready=False, serving=True, terminating=True)
    two_nodes.set_endpoint("web-0", draining)
    two_nodes.publish()
    eventually(lambda: check(node) == (503, 0))


def test_listener_goes_with_the_policy_and_follows_the_port(two_nodes: Lab) -> None:
    """R100."""
    node = two_nodes.node("node-1")

    two_nodes.services[:] = [local_service(port=OTHER_PORT)]
    two_nodes.publish()
    eventually(lambda: check(node, OTHER_PORT) == (200, 2))
    former = check(node)
    two_nodes.services[:] = [local_service(externalTrafficPolicy="Cluster")]
    two_nodes.publish()
    eventually(lambda: check(node, OTHER_PORT) == (0, 0))

    assert former == (0, 0)


def test_changes_of_others_leave_no_gap(two_nodes: Lab) -> None:
    """Asked without pause while ten other Services come and go."""
    node = two_nodes.node("node-1")
    done = threading.Event()
    seen: list[bytes] = []

    def keep_asking() -> None:
        while not done.is_set():
            with socket.create_connection(("127.0.0.1", PORT), timeout=5) as made:
                made.sendall(b"GET / HTTP/1.0\r\n\r\n")
                seen.append(made.makefile("rb").readline())

    failure: list[BaseException] = []

    def ask_inside() -> None:
        try:
            node.inside(keep_asking)
        except OSError as error:
            failure.append(error)

    asking = threading.Thread(target=ask_inside)
    asking.start()
    try:
        for n in range(1, 11):
            others = [local_service(f"web-{n}", f"10.96.1.{n}", port=PORT + 100 + n)]
            two_nodes.services[:] = [local_service(), *others]
            two_nodes.publish()
            eventually(lambda n=n: check(node, PORT + 100 + n) == (200, 2))
    finally:
        done.set()
        asking.join()

    assert failure == []
    assert len(seen) > 10
    assert set(seen) == {b"HTTP/1.0 200 OK\r\n"}


def test_taken_port_is_reported_and_opened_when_it_is_free(two_nodes: Lab) -> None:
    """R100: it concerns nobody else, and the agent stays healthy."""
    node, agent = two_nodes.node("node-1"), two_nodes.agent("node-1")

    def take() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # despite TIME_WAIT
        made.bind(("0.0.0.0", OTHER_PORT))
        made.listen()
        return made

    with node.inside(take):
        other = local_service("other", "10.96.0.20", port=OTHER_PORT)
        two_nodes.services[:] = [local_service(), other]
        two_nodes.publish()
        eventually(lambda: "Service default/other" in problems(agent))
        told = problems(agent)["Service default/other"]
        healthy, first = get(agent, "/healthz").status, check(node)
    eventually(lambda: check(node, OTHER_PORT) == (200, 2), within_s=RETRIES_WITHIN_S)
    eventually(lambda: problems(agent) == {})

    assert f"healthCheckNodePort {OTHER_PORT} cannot be opened on 0.0.0.0: Address" in told
    assert (healthy, first) == (200, (200, 2))


def test_taint_of_the_autoscaler_leaves_health_checks_alone(two_nodes: Lab) -> None:
    """R101: only /healthz turns."""
    node, agent = two_nodes.node("node-1"), two_nodes.agent("node-1")
    good = two_nodes.state_file.read_text()
    tainted = good.replace(
        "spec:\n    podCIDRs:",
        "spec:\n    taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]\n"
        "    podCIDRs:",
    )
    assert tainted != good

    two_nodes.write_state(tainted)
    eventually(lambda: get(agent, "/healthz").status == 503)
    asked = check(node)
    two_nodes.write_state(good)
    eventually(lambda: get(agent, "/healthz").status == 200)

    assert asked == (200, 2)
