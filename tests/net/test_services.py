# SPDX-License-Identifier: Apache-2.0
"""Every kind of frontend, dialled by real programs in pods and on nodes.

Two nodes, both pod networks, IPv4 and IPv6. What changes over time is in test_updates.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.remote import Remote
from tests.support.sniffer import Sniffer
from tests.support.web import Curl, curl, url
from vipbee.lab import Lab, echo, endpoints, parse_topology

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
network: {network}
nodes:
  - name: node-1
    pods:
      - {{name: web-0, app: web, servers: [nginx, echo]}}
      - {{name: dns-0, app: dns, servers: [dns]}}
      - {{name: alone-0, app: alone, servers: [nginx, echo]}}
      - {{name: client-1}}
  - name: node-2
    pods:
      - {{name: web-1, app: web, servers: [nginx, echo]}}
      - {{name: far-0, app: far, servers: [nginx, echo]}}
      - {{name: host-0, app: host, hostNetwork: true, servers: ["nginx:8100", "echo:7100"]}}
      - {{name: client-2}}
services:
  - metadata: {{name: web}}
    spec:
      type: LoadBalancer
      clusterIPs: [10.96.0.10, "fd00:10:96::10"]
      externalIPs: [198.51.100.10, "2001:db8:5::10"]
      selector: {{app: web}}
      ports:
        - {{name: http, port: 80, targetPort: 8080, nodePort: 30080}}
        - {{name: other, port: 90, targetPort: 8080, nodePort: 30090}}
        - {{name: echo, port: 7000, nodePort: 30700}}
        - {{name: echo-udp, port: 7000, protocol: UDP, nodePort: 30700}}
    status:
      loadBalancer:
        ingress:
          - {{ip: 203.0.113.10}}
          - {{ip: "2001:db8:6::10", ipMode: VIP}}
          - {{ip: 203.0.113.99, ipMode: Proxy}}
          - {{hostname: lb.example}}
  - metadata: {{name: dns, namespace: kube-system}}
    spec:
      clusterIPs: [10.96.0.53, "fd00:10:96::53"]
      selector: {{app: dns}}
      ports:
        - {{name: dns, port: 53, protocol: UDP}}
        - {{name: dns-tcp, port: 53, protocol: TCP}}
  - metadata: {{name: alone}}
    spec:
      clusterIPs: [10.96.0.20, "fd00:10:96::20"]
      selector: {{app: alone}}
      ports:
        - {{name: http, port: 80, targetPort: 8080}}
        - {{name: echo, port: 7000}}
        - {{name: echo-udp, port: 7000, protocol: UDP}}
  - metadata: {{name: host}}
    spec:
      clusterIPs: [10.96.0.30, "fd00:10:96::30"]
      selector: {{app: host}}
      ports:
        - {{name: http, port: 80, targetPort: 8100}}
        - {{name: echo, port: 7000, targetPort: 7100}}
        - {{name: echo-udp, port: 7000, targetPort: 7100, protocol: UDP}}
  - metadata: {{name: far}}
    spec:
      type: NodePort
      internalTrafficPolicy: Local
      externalTrafficPolicy: Local
      clusterIPs: [10.96.0.40, "fd00:10:96::40"]
      externalIPs: [198.51.100.40, "2001:db8:5::40"]
      selector: {{app: far}}
      ports:
        - {{name: http, port: 80, targetPort: 8080, nodePort: 30040}}
        - {{name: echo-udp, port: 7000, protocol: UDP}}
  - metadata: {{name: empty}}
    spec:
      type: LoadBalancer
      internalTrafficPolicy: Local
      clusterIPs: [10.96.0.50, "fd00:10:96::50"]
      externalIPs: [198.51.100.50, "2001:db8:5::50"]
      selector: {{app: nobody}}
      ports:
        - {{name: http, port: 80, nodePort: 30050}}
        - {{name: udp, port: 80, protocol: UDP, nodePort: 30050}}
    status:
      loadBalancer: {{ingress: [{{ip: 203.0.113.50}}, {{ip: "2001:db8:6::50"}}]}}
  - metadata: {{name: outside}}
    spec:
      clusterIPs: [10.96.0.60, "fd00:10:96::60"]
      ports:
        - {{name: echo, port: 7000}}
        - {{name: echo-udp, port: 7000, protocol: UDP}}
  - metadata: {{name: node-vip}}
    spec:
      clusterIPs: [10.96.0.70]
      externalIPs: [172.30.0.2]
      selector: {{app: alone}}
      ports: [{{name: http, port: 30090, targetPort: 8080}}]
"""
WEB = {"web-0\n", "web-1\n"}
VIPS = {
    ("ClusterIP", 4): "10.96.0.10",
    ("ClusterIP", 6): "fd00:10:96::10",
    ("externalIP", 4): "198.51.100.10",
    ("externalIP", 6): "2001:db8:5::10",
    ("LoadBalancer", 4): "203.0.113.10",
    ("LoadBalancer", 6): "2001:db8:6::10",
}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
ORIGINS = pytest.mark.parametrize("origin", ["client-1", "client-2", "node-1", "host-0"])
ECHO_UDP_SIZE = 2000
MEGABYTE = 1_000_000


def cluster_ip(number: int, family: int) -> str:
    """`.10` of 10.96.0.0/24 and fd00:10:96::/64: the same digits in both."""
    return f"10.96.0.{number}" if family == 4 else f"fd00:10:96::{number}"


@pytest.fixture(scope="module", params=["routed", "bridged"])
def lab(request: pytest.FixtureRequest, lab_name: str) -> Iterator[Lab]:
    topology = parse_topology(TOPOLOGY.format(network=request.param))
    with Lab.up(topology, name=lab_name, agents=False) as lab:
        serve_outside(lab)
        route_vips_outwards(lab)
        lab.start_agents(("--no-packet-lb",))  # test_packets_* have both layers
        yield lab


def serve_outside(lab: Lab) -> None:
    """Endpoints of Service `outside`: an echo server on the outside client.

    It gets routes to the pods, whose addresses nobody rewrites.
    """
    lab.client.start_daemon(
        [sys.executable, "-IS", echo.__file__, "outside", "7000"],
        log=lab.directory / "logs" / "outside.log",
    )
    for node in lab.blueprint.nodes:
        lab.client.run(
            ["ip", "route", "add", str(node.pod_ipv4), "via", str(node.place.ipv4)], check=True
        )
        lab.client.run(
            ["ip", "route", "add", str(node.pod_ipv6), "via", str(node.place.ipv6)], check=True
        )
    state = endpoints.render_state(lab.blueprint, lab.services, {})
    state["endpoints"] += [
        {
            "metadata": {
                "namespace": "default",
                "name": f"outside-{family}",
                "labels": {"kubernetes.io/service-name": "outside"},
            },
            "addressType": f"IPv{family}",
            "ports": [
                {"name": "echo", "port": 7000},
                {"name": "echo-udp", "port": 7000, "protocol": "UDP"},
            ],
            "endpoints": [{"addresses": [lab.client.address(family)]}],
        }
        for family in (4, 6)
    ]
    lab.write_state(state)


def route_vips_outwards(lab: Lab) -> None:
    """As a default route would, so that an untranslated packet does leave node-1."""
    node, other = lab.node("node-1"), lab.node("node-2")
    for family, vips in ((4, "10.96.0.0/16"), (6, "fd00:10:96::/64")):
        node.run(["ip", "route", "add", vips, "via", other.address(family)], check=True)


@pytest.fixture
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


# ---- the frontends -----------------------------------------------------------------------


@FAMILIES
@ORIGINS
@pytest.mark.parametrize("kind", ["ClusterIP", "externalIP", "LoadBalancer"])
def test_every_vip_is_served_to_pods_and_nodes(
    lab: Lab, origin: str, kind: str, family: int
) -> None:
    """R41, R46 (eTP=Cluster), R76, R79, R86 (nobody owns the addresses), R120."""
    done = curl(lab.place(origin), url(VIPS[kind, family]))

    assert done.stdout in WEB, done.stderr


@FAMILIES
@ORIGINS
@pytest.mark.parametrize("target", ["node-1", "node-2"])
def test_node_port_is_served_on_every_node_address_to_pods_and_nodes(
    lab: Lab, origin: str, target: str, family: int
) -> None:
    """R89, R90 (primary addresses), R93 (nobody listens on the number)."""
    done = curl(lab.place(origin), url(lab.node(target).address(family), 30080))

    assert done.stdout in WEB, done.stderr


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_node_port_is_served_on_loopback_of_the_node_and_not_of_its_pods(
    lab: Lab, loopback: str
) -> None:
    """R91 as the issue amends it: on for programs on the node, nowhere else."""
    on_node = curl(lab.node("node-1"), url(loopback, 30080))
    in_pod = curl(lab.pod("client-1"), url(loopback, 30080))

    assert on_node.stdout in WEB, on_node.stderr
    assert in_pod.returncode == Curl.FAILED_TO_CONNECT


@FAMILIES
def test_node_port_is_no_port_of_other_addresses(lab: Lab, family: int) -> None:
    """R90: pod addresses are no node addresses; a ClusterIP has no NodePort."""
    pod = curl(lab.pod("client-1"), url(lab.pod("alone-0").address(family), 30080))
    vip = curl(lab.pod("client-1"), url(cluster_ip(10, family), 30080))

    assert (pod.returncode, vip.returncode) == (Curl.FAILED_TO_CONNECT,) * 2


def test_external_ip_on_a_node_address_wins_over_the_node_port_there(lab: Lab) -> None:
    """F27, R92: externalIP 172.30.0.2:30090 against NodePort 30090; the other node keeps it."""
    contested = {curl(lab.pod("client-1"), url("172.30.0.2", 30090)).stdout for _ in range(8)}
    other = curl(lab.pod("client-1"), url("172.30.0.1", 30090)).stdout

    assert contested == {"alone-0\n"}
    assert other in WEB


def test_load_balancer_address_in_proxy_mode_is_left_alone(lab: Lab) -> None:
    """R77: the packet leaves for the load balancer, which this lab does not have."""
    with Sniffer(lab.node("node-1")) as sniffer:
        done = curl(lab.node("node-1"), url("203.0.113.99"))
        with Sniffer(lab.pod("client-1")) as pod_sniffer:
            curl(lab.pod("client-1"), url("203.0.113.99"))
            left_the_pod = pod_sniffer.packets_with("203.0.113.99")
        reached_the_node = sniffer.packets_with("203.0.113.99")

    assert done.returncode == Curl.FAILED_TO_CONNECT
    assert left_the_pod > 0
    assert reached_the_node > 0


@FAMILIES
@pytest.mark.parametrize("kind", ["externalIP", "LoadBalancer"])
def test_unknown_port_of_an_external_vip_is_left_alone(lab: Lab, kind: str, family: int) -> None:
    """R40: not ours, so the packet leaves untranslated."""
    address = VIPS[kind, family]
    with Sniffer(lab.pod("client-1")) as sniffer:
        curl(lab.pod("client-1"), url(address, 81))

        assert sniffer.packets_with(address) > 0


@FAMILIES
def test_connections_spread_evenly_over_backends(lab: Lab, family: int) -> None:
    """R33, over both nodes."""
    requests = 200
    target = url(cluster_ip(10, family), 80, f"?[1-{requests}]")

    done = curl(lab.pod("client-1"), target, "-H", "Connection: close", timeout_s=20)

    answers = Counter(done.stdout.split())
    assert answers.total() == requests
    assert abs(answers["web-0"] - requests / 2) < 45  # 6 standard deviations


# ---- what the client and the server see --------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("kind", ["ClusterIP", "externalIP", "LoadBalancer", "NodePort"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_connected_socket_sees_the_service_it_dialled(
    lab: Lab, client: Remote, protocol: str, kind: str, family: int
) -> None:
    """R121 getpeername(), D163: TCP and connected UDP, every kind of frontend."""
    address = (
        (lab.node("node-2").address(family), 30700)
        if kind == "NodePort"
        else (VIPS[kind, family], 7000)
    )
    connected = client.tcp(family) if protocol == "tcp" else client.udp(family)

    connected.connect(address)

    assert connected.ask() in {"web-0", "web-1"}
    assert connected.getpeername() == address


@FAMILIES
@pytest.mark.parametrize("kind", ["ClusterIP", "externalIP", "LoadBalancer", "NodePort"])
def test_datagrams_come_from_the_service_they_were_sent_to(
    lab: Lab, client: Remote, kind: str, family: int
) -> None:
    """R121 recvfrom(), R122 unconnected UDP."""
    address = (
        (lab.node("node-1").address(family), 30700)
        if kind == "NodePort"
        else (VIPS[kind, family], 7000)
    )

    name, source = client.udp(family).ask_at(address)

    assert name in {"web-0", "web-1"}
    assert source == address


def test_one_unconnected_socket_talks_to_several_services(client: Remote) -> None:
    """R122, R124 (different backends)."""
    udp = client.udp()
    vips = [(cluster_ip(number, 4), 7000) for number in (20, 30, 10, 20, 60, 30)]

    sources = [udp.ask_at(vip)[1] for vip in vips]

    assert sources == vips


def test_mapped_ipv4_address_on_an_ipv6_socket_is_served(client: Remote) -> None:
    """R122: what a JVM or Go does with a dual-stack socket."""
    tcp, udp = client.tcp(6), client.udp(6)
    address = ("::ffff:10.96.0.20", 7000)

    tcp.connect(address)

    assert (tcp.ask(), tcp.getpeername()) == ("alone-0", address)
    assert udp.ask_at(address) == ("alone-0", address)


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("target", "number"), [("alone-0", 20), ("host-0", 30)])
def test_server_sees_the_pods_own_address(
    lab: Lab, client: Remote, target: str, number: int, protocol: str, family: int
) -> None:
    """R55, same node and across nodes; R25: a host-network backend is a node address."""
    connected = client.tcp(family) if protocol == "tcp" else client.udp(family)

    connected.connect((cluster_ip(number, family), 7000))

    assert connected.whoami() == (target, lab.pod("client-1").address(family))


@FAMILIES
@pytest.mark.parametrize("origin", ["client-1", "client-2", "node-1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_endpoint_outside_the_cluster_is_served(
    lab: Lab, protocol: str, origin: str, family: int
) -> None:
    """R25: a Service without selector, its endpoint no pod."""
    place = lab.place(origin)
    with Remote(place) as remote:
        connected = remote.tcp(family) if protocol == "tcp" else remote.udp(family)
        connected.connect((cluster_ip(60, family), 7000))

        assert connected.whoami() == ("outside", place.address(family))


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_pod_reaches_itself_through_its_own_service(lab: Lab, protocol: str, family: int) -> None:
    """R59 hairpin; the source is the pod itself, for there is no packet to rewrite."""
    pod = lab.pod("alone-0")
    with Remote(pod) as remote:
        connected = remote.tcp(family) if protocol == "tcp" else remote.udp(family)
        connected.connect((cluster_ip(20, family), 7000))

        name, _ = connected.whoami()

    assert name == "alone-0"


@FAMILIES
def test_a_host_network_pod_reaches_itself_through_its_own_service(lab: Lab, family: int) -> None:
    """R59 with a node address as endpoint."""
    done = curl(lab.pod("host-0"), url(cluster_ip(30, family)))

    assert done.stdout == "host-0\n", done.stderr


@FAMILIES
@pytest.mark.parametrize("origin", ["client-1", "node-1", "alone-0"])
@pytest.mark.parametrize("number", [20, 30])
def test_datagrams_larger_than_a_packet_arrive(
    lab: Lab, number: int, origin: str, family: int
) -> None:
    """R123: 2,000 bytes there and back, fragmented; also with host-network backends."""
    message = bytes(range(250)) * (ECHO_UDP_SIZE // 250)
    with Remote(lab.place(origin)) as remote:
        udp = remote.udp(family)
        udp.sendto(message, (cluster_ip(number, family), 7000))

        assert udp.recvfrom() == (message, (cluster_ip(number, family), 7000))


@FAMILIES
@pytest.mark.parametrize("number", [10, 30])
def test_a_megabyte_is_uploaded_over_http(lab: Lab, number: int, family: int) -> None:
    """R123, up to nginx in a pod and on a node; nginx answers only when it has the body."""
    done = lab.pod("client-1").run(
        [
            *("curl", "-sS", "--max-time", "10", "--data-binary", "@-"),
            *("-w", "%{size_upload}", url(cluster_ip(number, family))),
        ],
        input="x" * MEGABYTE,
    )

    assert done.stdout.split()[-1] == str(MEGABYTE), done.stderr


@FAMILIES
def test_a_megabyte_comes_back_over_tcp(client: Remote, family: int) -> None:
    """R123, both directions: the echo server returns what it gets."""
    chunk = bytes(range(200)) * 100
    tcp = client.tcp(family)
    tcp.connect((cluster_ip(20, family), 7000))
    received = 0

    for _ in range(MEGABYTE // len(chunk)):
        tcp.send(chunk)
        came = b""
        while len(came) < len(chunk):
            came += tcp.recv()
        assert came == chunk
        received += len(came)

    assert received == MEGABYTE


# ---- DNS ---------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("origin", ["client-1", "node-2"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_accepts_the_answers_of_the_dns_service(
    lab: Lab, transport: str, origin: str, family: int
) -> None:
    """R121: dig discards answers from another address than it asked (cilium#7925)."""
    server = cluster_ip(53, family)

    done = lab.place(origin).run(
        ["dig", transport, "+tries=1", "+timeout=5", f"@{server}", "whoami.lab", "TXT"]
    )

    assert '"dns-0"' in done.stdout
    assert f";; SERVER: {server}#53" in done.stdout
    assert "reply from unexpected source" not in done.stdout + done.stderr


@FAMILIES
@pytest.mark.parametrize("program", ["host", "nslookup"])
def test_resolvers_accept_the_answers_of_the_dns_service(
    lab: Lab, program: str, family: int
) -> None:
    """R121 with the other two resolvers of bind."""
    name, server = "web.default.svc.cluster.local", cluster_ip(53, family)

    done = lab.pod("client-1").run([program, name, server])

    assert done.returncode == 0, done.stdout + done.stderr
    assert "10.96.0.10" in done.stdout
    assert "fd00:10:96::10" in done.stdout
    assert server in done.stdout


# ---- policies ----------------------------------------------------------------------------


@FAMILIES
def test_internal_policy_local_serves_on_the_endpoints_node(lab: Lab, family: int) -> None:
    """R43, R44: pods and the node itself."""
    from_pod = curl(lab.pod("client-2"), url(cluster_ip(40, family)))
    from_node = curl(lab.node("node-2"), url(cluster_ip(40, family)))

    assert (from_pod.stdout, from_node.stdout) == ("far-0\n", "far-0\n")


@FAMILIES
@pytest.mark.parametrize("origin", ["client-1", "node-1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "connected udp"])
def test_internal_policy_local_without_local_endpoint_is_unreachable_and_nothing_leaves(
    lab: Lab, protocol: str, origin: str, family: int
) -> None:
    """R44 as the issue amends it: an error at once, and no packet to the VIP anywhere."""
    vip = cluster_ip(40, family)
    with Remote(lab.place(origin)) as remote, Sniffer(lab.place(origin)) as sniffer:
        with pytest.raises(OSError, match="No route to host"):
            dial(remote, protocol, family, (vip, 80 if protocol == "tcp" else 7000))
        assert sniffer.packets_with(vip) == 0

        dialler = lab.place(origin).inside(lambda: dial_unhooked(vip, family))
        eventually(lambda: sniffer.packets_with(vip), what="the sniffer sees such a packet")
        dialler.close()


def dial(remote: Remote, protocol: str, family: int, address: tuple[str, int]) -> None:
    if protocol == "tcp":
        remote.tcp(family).connect(address)
    elif protocol == "udp":
        remote.udp(family).sendto(b"x", address)
    else:
        remote.udp(family).connect(address)


def dial_unhooked(vip: str, family: int) -> socket.socket:
    """Start a TCP connect that no hook sees, in the calling thread's namespace."""
    dialler = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    dialler.setblocking(False)
    assert dialler.connect_ex((vip, 80)) == errno.EINPROGRESS
    return dialler


@FAMILIES
@pytest.mark.parametrize("origin", ["client-1", "node-1", "client-2"])
def test_external_policy_local_is_short_circuited_for_the_cluster(
    lab: Lab, origin: str, family: int
) -> None:
    """R50, R51, R53: from a node without endpoint, pods and host reach the one elsewhere.

    R45: internalTrafficPolicy is Local too, and does not matter for these frontends (R43).
    """
    place = lab.place(origin)
    vip = "198.51.100.40" if family == 4 else "2001:db8:5::40"

    by_vip = curl(place, url(vip))
    by_own_node = curl(place, url(lab.node("node-1").address(family), 30040))
    by_other_node = curl(place, url(lab.node("node-2").address(family), 30040))

    answers = (by_vip.stdout, by_own_node.stdout, by_other_node.stdout)
    assert answers == ("far-0\n",) * 3


# ---- refusals ----------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("origin", ["client-1", "node-1"])
@pytest.mark.parametrize(
    "frontend", ["ClusterIP", "externalIP", "LoadBalancer", "NodePort", "other NodePort"]
)
def test_service_without_endpoints_refuses_at_once_on_every_frontend(
    lab: Lab, origin: str, frontend: str, family: int
) -> None:
    """R35: TCP, connected and unconnected UDP; also with a Local policy (R44)."""
    address = {
        "ClusterIP": (cluster_ip(50, family), 80),
        "externalIP": ("198.51.100.50" if family == 4 else "2001:db8:5::50", 80),
        "LoadBalancer": ("203.0.113.50" if family == 4 else "2001:db8:6::50", 80),
        "NodePort": (lab.node("node-1").address(family), 30050),
        "other NodePort": (lab.node("node-2").address(family), 30050),
    }[frontend]
    with Remote(lab.place(origin)) as remote, Sniffer(lab.place(origin)) as sniffer:
        with pytest.raises(ConnectionRefusedError):
            remote.tcp(family).connect(address)
        with pytest.raises(ConnectionRefusedError):
            remote.udp(family).connect(address)
        with pytest.raises(ConnectionRefusedError):
            remote.udp(family).sendto(b"x", address)
        if "NodePort" not in frontend:
            assert sniffer.packets_with(address[0]) == 0


@FAMILIES
@pytest.mark.parametrize(("port", "protocol"), [(81, "tcp"), (81, "udp"), (80, "udp")])
def test_unknown_port_of_a_cluster_ip_is_refused_at_once_and_nothing_leaves(
    lab: Lab, client: Remote, port: int, protocol: str, family: int
) -> None:
    """R37, R10: 80/TCP is known, 80/UDP is not."""
    vip = cluster_ip(10, family)
    with Sniffer(lab.pod("client-1")) as sniffer:
        with pytest.raises(ConnectionRefusedError):
            dial(client, protocol, family, (vip, port))

        assert sniffer.packets_with(vip) == 0


def test_curl_and_dig_report_a_refusal_and_no_timeout(lab: Lab) -> None:
    """R35, R37 as a user sees them."""
    web = curl(lab.pod("client-1"), url(cluster_ip(50, 4)))
    dns = lab.pod("client-1").run(["dig", "+tries=1", "+timeout=5", "@10.96.0.10", "x.lab"])

    assert web.returncode == Curl.FAILED_TO_CONNECT
    assert "refused" in dns.stdout


# ---- the wire ----------------------------------------------------------------------------


@FAMILIES
def test_no_packet_between_the_nodes_carries_a_vip(lab: Lab, family: int) -> None:
    """The design: translated at the socket, no packet rewritten."""
    client, vip = lab.pod("client-1"), cluster_ip(10, family)
    backend = lab.pod("web-1").address(family)
    fabric = lab.node("node-2")
    with Sniffer(fabric) as sniffer:
        answers = {curl(client, url(vip)).stdout for _ in range(16)}
        with_vip = sniffer.packets_with(vip)
        for _ in range(16):
            answers.add(curl(client, url(vip)).stdout)
        with_backend = sniffer.packets_with(backend)

    assert answers == WEB
    assert with_vip == 0
    assert with_backend > 0
