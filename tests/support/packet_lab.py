# SPDX-License-Identifier: Apache-2.0
"""Labs for the packet layer: three nodes, a client outside, pods that no hook sees.

node-1  near-0 (in the Service)   plain-1, sealed-1 (sandboxed)   ← VIPs arrive here
node-2  far-0  (in the Service)   plain-2
node-3  host-3 (a program of the node), sealed-3                  ← VIPs find no pod here
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vipbee.lab import Lab, Place, parse_topology

CONFIG = """\
packet-lb: true
map-sizes: {conntrack: 65536, conntrack_new: 16384, udp_flows: 4096, backends: 65536}
"""
TOPOLOGY = """\
network: {network}
nodes:
  - name: node-1
    pods:
      - {{name: near-0, app: web, servers: [nginx, echo, dns]}}
      - {{name: plain-1}}
      - {{name: sealed-1, sandboxed: true}}
      - {{name: sealed-web, app: sealed, sandboxed: true, servers: [nginx, echo]}}
  - name: node-2
    pods:
      - {{name: far-0, app: web, servers: [nginx, echo, dns]}}
      - {{name: lone-0, app: lone, servers: [nginx, echo, dns]}}
      - {{name: plain-2}}
  - name: node-3
    pods:
      - {{name: host-3, app: host, hostNetwork: true, servers: ["nginx:8080", "echo:7000"]}}
      - {{name: sealed-3, sandboxed: true}}
services:
  - {cluster}
  - {local}
  - {lone}
  - {empty}
  - {sealed}
  - {ranged}
  - {inward}
  - {host}
"""
PORTS = {"http": (80, 8080, "TCP"), "echo": (7000, 7000, "TCP"), "echo-udp": (7000, 7000, "UDP")}
PORTS |= {"dns": (53, 53, "UDP"), "dns-tcp": (53, 53, "TCP")}
NUMBERS = {
    "cluster": 10,
    "local": 20,
    "lone": 30,
    "empty": 40,
    "sealed": 50,
    "ranged": 54,
    "inward": 45,
    "host": 35,
}
NUMBERS |= {"late": 25}
"""Service → last part of its addresses; its NodePorts are 30000 + 10 × this + the port's."""
NODE_PORTS = {"http": 0, "echo": 1, "echo-udp": 1, "dns": 2, "dns-tcp": 2}


def cluster_ip(service: str, family: int) -> str:
    return _address(("10.96.0.{}", "fd00:10:96::{}"), service, family)


def balancer_ip(service: str, family: int) -> str:
    return _address(("172.31.0.1{}", "fd00:172:31::1{}"), service, family)


def external_ip(service: str, family: int) -> str:
    return _address(("172.31.0.2{}", "fd00:172:31::2{}"), service, family)


def node_port(service: str, port: str) -> int:
    return 30000 + NUMBERS[service] * 10 + NODE_PORTS[port]


@contextmanager
def packet_lab(
    network: str, name: str, *, config: str = "", options: tuple[str, ...] = ()
) -> Iterator[Lab]:
    """A lab whose agents run the packet layer; `config` adds lines to their configuration."""
    topology = parse_topology(topology_text(network))
    with Lab.up(topology, name=name, agents=False) as lab:
        path = Path(lab.directory) / "agent.yaml"
        path.write_text(CONFIG + config)
        lab.start_agents((f"--config={path}", *options))
        yield lab


def route_everything_to_the_client(lab: Lab) -> None:
    """A default route for the nodes, to where nothing is answered or forwarded."""
    for node in lab.nodes:
        node.run(["ip", "route", "replace", "default", "via", lab.client.ipv4], check=True)
        node.run(["ip", "-6", "route", "add", "default", "via", lab.client.ipv6], check=True)


def topology_text(network: str) -> str:
    return TOPOLOGY.format(
        network=network,
        cluster=service("cluster", "web"),
        local=service("local", "web", externalTrafficPolicy="Local"),
        lone=service("lone", "lone", externalTrafficPolicy="Local"),
        empty=service("empty", "nobody"),
        sealed=service("sealed", "sealed"),
        inward=service("inward", "web", internalTrafficPolicy="Local"),
        host=service("host", "host"),
        ranged=service("ranged", "web", loadBalancerSourceRanges=["172.30.0.0/24"]),
    )


def service(name: str, app: str, **spec: object) -> dict[str, object]:
    """As flow-style YAML: the repr of plain dicts, lists and strings is just that."""
    ports = [
        {
            "name": port,
            "port": number,
            "targetPort": target,
            "protocol": protocol,
            "nodePort": node_port(name, port),
        }
        for port, (number, target, protocol) in PORTS.items()
    ]
    return {
        "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer",
            "clusterIPs": [cluster_ip(name, 4), cluster_ip(name, 6)],
            "externalIPs": [external_ip(name, 4), external_ip(name, 6)],
            "selector": {"app": app},
            "ports": ports,
            **spec,
        },
        "status": {
            "loadBalancer": {
                "ingress": [{"ip": balancer_ip(name, 4)}, {"ip": balancer_ip(name, 6)}]
            }
        },
    }


def _address(patterns: tuple[str, str], service: str, family: int) -> str:
    return patterns[family == 6].format(NUMBERS[service])


# ---- clients ---------------------------------------------------------------------------

WHOAMI = b"whoami"


class Answer(NamedTuple):
    """Who answered, and whom it saw."""

    server: str
    client: str


def ask(place: Place, protocol: str, address: str, port: int, timeout_s: float = 3.0) -> Answer:
    """One question to an echo server, on a socket that no hook sees; OSError if it fails."""
    return place.inside(lambda: _ask(protocol, address, port, timeout_s))


def _ask(protocol: str, address: str, port: int, timeout_s: float) -> Answer:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as asking:
        asking.settimeout(timeout_s)
        asking.connect((address, port))
        asking.sendall(WHOAMI)
        server, client, _ = asking.recv(100).decode().split()
        return Answer(server, client)


def ask_until(
    place: Place, protocol: str, address: str, port: int, servers: set[str]
) -> set[Answer]:
    """Ask until all of `servers` have answered; the answers. At most 64 times."""
    answers: set[Answer] = set()
    for _ in range(64):
        answers.add(ask(place, protocol, address, port))
        if {answer.server for answer in answers} >= servers:
            break
    return answers
