# SPDX-License-Identifier: Apache-2.0
"""Topology files: what is refused, and that the message names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vipbee.errors import UsageError
from vipbee.lab.topology import ServerKind, load_topology, parse_server, parse_topology

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("lab*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(file: Path) -> None:
    assert load_topology(file).nodes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [", "not valid YAML"),
        ("", "Expected `object`, got `null`"),
        ("nodes: []", "a lab has 1 to 99 nodes, not 0"),
        ("nodes: [{name: a}]\nnetwork: overlay", "Invalid enum value 'overlay'"),
        ("nodes: [{name: a, podz: []}]", "unknown field `podz`"),
        ("nodes: [{name: A}]", "name 'A': use lower-case"),
        ("nodes: [{name: client}]", "the name client is the lab's own"),
        ("nodes: [{name: a, pods: [{name: a}]}]", "the name a is used twice"),
        ("name: a-b\nnodes: [{name: a}]", "lab name 'a-b'"),
        ("nodes: [{name: a, pods: [{name: p, servers: [apache]}]}]", "pod p: server 'apache'"),
        ("nodes: [{name: a, pods: [{name: p, servers: ['echo:0']}]}]", "port 0 is not between"),
        ("nodes: [{name: a, pods: [{name: p, servers: [echo, echo]}]}]", "port 7000 is used twice"),
        ("nodes: [{name: a}]\nservices: [{spec: {}}]", "services are v1 Service objects"),
    ],
)
def test_a_wrong_topology_is_refused_by_file_and_name(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_topology(text, source="lab.yaml")

    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothere\.yaml: cannot be read: No such file"):
        load_topology(tmp_path / "nothere.yaml")


def test_host_network_pods_of_different_nodes_may_use_one_port() -> None:
    text = """
    nodes:
      - {name: node-1, pods: [{name: a, hostNetwork: true, servers: [echo]}]}
      - {name: node-2, pods: [{name: b, hostNetwork: true, servers: [echo]}]}
    """

    assert len(parse_topology(text).nodes) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", (ServerKind.NGINX, 8080)),
        ("dns", (ServerKind.DNS, 53)),
        ("echo:65535", (ServerKind.ECHO, 65535)),
    ],
)
def test_servers_have_default_ports(text: str, expected: tuple[ServerKind, int]) -> None:
    assert parse_server(text) == expected
