# SPDX-License-Identifier: Apache-2.0
"""What people write into state files, and what becomes of their Services."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_view import get, problems, status, wait_log
from tests.support.eventually import eventually
from tests.support.manifests import Manifest, echo_service, echo_slice
from tests.support.remote import Remote
from vipbee.lab import Agent, Lab, endpoints, parse_topology

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
"""
SOCKETS_ONLY = "--no-packet-lb"  # a start without packet programs takes half as long
WEB = {"web-0", "web-1"}
VIP, OTHER_VIP = ("10.96.0.10", 7000), ("10.96.0.20", 7000)
WEB_SERVICE = echo_service("web", VIP[0])
ASKED = 40
BIG_FILE_BYTES = 100 << 20


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        # an unserved VIP fails at once
        lab.pod("client-1").run(["ip", "route", "add", "unreachable", "10.96.0.0/16"], check=True)
        lab.services[:] = [WEB_SERVICE]
        lab.publish()
        yield lab


@pytest.fixture(scope="module")
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


_numbers = itertools.count(1)


@pytest.fixture
def agent(lab: Lab, client: Remote) -> Agent:
    """The agent of node-1, serving `web` at VIP from the lab's own state file."""
    agent = lab.agent("node-1")
    agent.state_file, agent.options = lab.state_file, (SOCKETS_ONLY,)
    marker = f"10.96.3.{next(_numbers)}"  # tells this state from the last test's
    lab.services[:] = [WEB_SERVICE, echo_service("marker", marker)]
    lab.publish()
    if not agent.is_running:
        lab.start_agents((SOCKETS_ONLY,))
    eventually(lambda: client.who((marker, 7000)) in WEB)
    lab.services[:] = [WEB_SERVICE]
    return agent


@pytest.fixture
def other_agent(lab: Lab, agent: Agent) -> Iterator[Agent]:
    """The same agent, stopped and without pins, to be started otherwise."""
    remove(agent)
    yield agent
    remove(agent)
    agent.state_file, agent.options = lab.state_file, (SOCKETS_ONLY,)
    agent.start()
    agent.wait_ready()


def remove(agent: Agent) -> None:
    agent.kill()
    assert agent.vipbee(["cleanup"]).returncode == 0


def state(lab: Lab, *services: Manifest) -> dict[str, Any]:
    """A whole state of these Services, with the pods as endpoints."""
    return endpoints.render_state(lab.blueprint, services, {})


def answers(client: Remote, address: tuple[str, int] = VIP) -> set[str]:
    return {client.who(address) for _ in range(ASKED)}


# ---- files that cannot be read -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("services:\n- metadata: {name: web\n", "line 2"),
        ("services: []\nservices: []\n", "line 2"),
        ("services:\n\t- metadata: {}\n", "line 2"),
        ("services: &a []\nendpoints: *a\n", "line 1"),
        ('{"services": [\n{"metadata": ', "line 2"),
        ("services: 7\n", "services"),
        ("", "is empty"),
        ("\x00\x01", "line 1"),
    ],
)
def test_file_that_cannot_be_parsed_leaves_the_last_good_state(
    agent: Agent, client: Remote, lab: Lab, text: str, reason: str
) -> None:
    """F31, interface.md §3: file and line in the log and in `vipbee status`, then recovery."""
    log_end = len(agent.log.read_text())

    lab.write_state(text)
    line = wait_log(agent, "last good state", after=log_end)
    complaint = problems(agent)
    served = answers(client)
    lab.services.append(echo_service("other", OTHER_VIP[0]))
    lab.publish()
    eventually(lambda: client.who(OTHER_VIP) in WEB)

    assert str(lab.state_file) in line
    assert reason in line
    assert reason in complaint[str(lab.state_file)]
    assert served == WEB
    eventually(lambda: problems(agent) == {})


def test_file_that_disappears_leaves_the_last_good_state(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """F17, F31: and is read again when it is back."""
    log_end = len(agent.log.read_text())

    lab.state_file.unlink()
    wait_log(agent, "disappeared", after=log_end)
    served = answers(client)
    complaint = problems(agent)[str(lab.state_file)]
    lab.services[:] = [echo_service("other", OTHER_VIP[0])]
    lab.publish()
    eventually(lambda: client.who(OTHER_VIP) in WEB)

    assert "disappeared" in complaint
    assert served == WEB
    eventually(lambda: client.who(VIP) == "EHOSTUNREACH")
    eventually(lambda: problems(agent) == {})


def test_file_is_changed_in_place_and_by_symlink_swap(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """interface.md §3, F31: not only by atomic rename."""
    lab.services[:] = [echo_service("other", OTHER_VIP[0])]
    lab.publish()
    other = lab.state_file.read_text()
    lab.services[:] = [WEB_SERVICE]
    lab.publish()
    eventually(lambda: client.who(VIP) in WEB)

    lab.state_file.write_text(other)
    eventually(lambda: client.who(OTHER_VIP) in WEB)
    target = lab.directory / "elsewhere.yaml"
    target.write_text(json.dumps(state(lab, WEB_SERVICE)))
    link = lab.directory / "link"
    link.symlink_to(target)
    link.rename(lab.state_file)
    eventually(lambda: client.who(VIP) in WEB)
    eventually(lambda: client.who(OTHER_VIP) == "EHOSTUNREACH")


def test_hundred_megabyte_file_keeps_the_agent_alive_and_serving(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """F31, F34: JSON as `kubectl … -o json` writes it; what is in it is served."""
    text = json.dumps(state(lab, WEB_SERVICE, echo_service("other", OTHER_VIP[0])))
    padding = json.dumps({"metadata": {"name": "x", "annotations": {"a": "y" * (1 << 20)}}})
    services = ",".join([padding] * (BIG_FILE_BYTES // len(padding)))
    temporary = lab.state_file.with_suffix(".new")

    temporary.write_text(text.replace('"services": [', f'"services": [{services},', 1))
    assert temporary.stat().st_size > 0.99 * BIG_FILE_BYTES
    temporary.rename(lab.state_file)
    eventually(lambda: client.who(OTHER_VIP) in WEB, within_s=20)

    assert get(agent, "/healthz").status == 200
    assert answers(client) == WEB


# ---- objects that are wrong --------------------------------------------------------------


INVALID_SPECS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"clusterIP": "10.96.0.999"}, "10.96.0.999"),
    ({"clusterIP": "１0.96.0.20"}, "clusterIP"),
    ({"clusterIP": "127.0.0.1"}, "loopback"),
    ({"clusterIP": "169.254.169.254"}, "metadata"),
    ({"clusterIP": "169.254.1.1"}, "link-local"),
    ({"clusterIP": "224.0.0.1"}, "multicast"),
    ({"clusterIP": "0.0.0.0"}, "unspecified"),
    ({"clusterIP": "::1"}, "loopback"),
    ({"clusterIP": "fe80::1"}, "link-local"),
    ({"clusterIP": "172.30.0.1"}, "address of a node"),
    ({"ports": [{"name": "a", "port": 0}]}, "port"),
    ({"ports": [{"name": "a", "port": 65536}]}, "port"),
    ({"ports": [{"name": "a", "port": "80"}]}, "port"),
    ({"ports": [{"name": "a", "port": True}]}, "port"),
    ({"ports": [{"name": "a", "port": 80, "protocol": "tcp"}]}, "protocol"),
    ({"ports": {"name": "a"}}, "ports"),
    ({"sessionAffinity": "Maybe"}, "sessionAffinity"),
    ({"internalTrafficPolicy": "local"}, "internalTrafficPolicy"),
)
"""What is wrong, over a Service that is not; and a word of the reason."""


def test_invalid_services_are_skipped_by_name_and_the_others_are_served(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """F32, F33, R25, security §4.5: each reported with its reason, its siblings programmed."""
    written = state(lab, WEB_SERVICE, echo_service("other", OTHER_VIP[0]))
    expected = {}
    for number, (spec, reason) in enumerate(INVALID_SPECS):
        bad: Manifest = {"metadata": {"namespace": "team", "name": f"bad-{number}"}}
        usual = {"clusterIP": f"10.96.4.{number}", "ports": [{"name": "a", "port": 80}]}
        bad["spec"] = {**usual, **spec}
        written["services"].insert(0, bad)
        expected[f"Service team/bad-{number}"] = reason

    lab.write_state(written)
    eventually(lambda: client.who(OTHER_VIP) in WEB)

    eventually(lambda: problems(agent).keys() == expected.keys())
    complaints = problems(agent)
    assert [name for name, reason in expected.items() if reason not in complaints[name]] == []
    assert {client.who((f"10.96.4.{n}", 80)) for n in range(len(INVALID_SPECS))} == {"EHOSTUNREACH"}
    assert answers(client) == WEB


FORBIDDEN_BACKENDS = {
    "127.0.0.1": "loopback",
    "169.254.169.254": "metadata",
    "169.254.7.7": "link-local",
    "224.0.0.5": "multicast",
    "0.0.0.0": "unspecified",
}


def test_forbidden_backends_are_left_out_by_name(agent: Agent, client: Remote, lab: Lab) -> None:
    """CVE-2021-25737, security §4.5: the other endpoints of each slice serve."""
    good = lab.pod("web-1").ipv4
    vips = {address: f"10.96.5.{n}" for n, address in enumerate(FORBIDDEN_BACKENDS)}
    names = {address: f"mixed-{n}" for n, address in enumerate(FORBIDDEN_BACKENDS)}
    services = [echo_service(names[a], vips[a], selector=None) for a in FORBIDDEN_BACKENDS]
    written = state(lab, *services)
    written["endpoints"] += [echo_slice(names[a], a, good) for a in FORBIDDEN_BACKENDS]

    lab.write_state(written)
    eventually(lambda: {client.who((vip, 7000)) for vip in vips.values()} == {"web-1"})

    eventually(lambda: len(problems(agent)) == len(FORBIDDEN_BACKENDS))
    complaints = problems(agent)
    for address, what in FORBIDDEN_BACKENDS.items():
        (message,) = [text for name, text in complaints.items() if names[address] in name]
        assert address in message
        assert what in message
        assert answers(client, (vips[address], 7000)) == {"web-1"}


def test_forbidden_external_ip_is_left_out_and_the_service_served(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """CVE-2020-8554, R86."""
    service = echo_service("other", OTHER_VIP[0], externalIPs=["169.254.169.254", "198.51.100.7"])

    lab.services[:] = [service]
    lab.publish()
    eventually(lambda: client.who(("198.51.100.7", 7000)) in WEB)

    assert client.who(OTHER_VIP) in WEB
    assert "169.254.169.254" in problems(agent)["Service default/other"]


def test_duplicate_cluster_ip_has_one_owner_and_the_other_is_named(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """R88, F26: the oldest wins whatever the order; handed over when it goes."""
    old = echo_service("zz-old", OTHER_VIP[0])
    young = echo_service("aa-young", OTHER_VIP[0], selector=None)
    old["metadata"]["creationTimestamp"] = "2024-01-01T00:00:00Z"
    young["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    only_web_1 = echo_slice("aa-young", lab.pod("web-1").ipv4)

    for services in ([old, young], [young, old]):
        written = state(lab, *services)
        written["endpoints"].append(only_web_1)
        lab.write_state(written)
        eventually(lambda: answers(client, OTHER_VIP) == WEB)
        eventually(lambda: list(problems(agent)) == ["Service default/aa-young"])
    assert "zz-old" in problems(agent)["Service default/aa-young"]

    written["services"] = state(lab, young)["services"]
    lab.write_state(written)
    eventually(lambda: answers(client, OTHER_VIP) == {"web-1"})

    eventually(lambda: problems(agent) == {})


def test_sctp_port_is_skipped_with_a_warning_and_its_siblings_are_served(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """R16."""
    ports = [{"name": "echo", "port": 7000}, {"name": "s", "port": 7000, "protocol": "SCTP"}]

    lab.services[:] = [echo_service("other", OTHER_VIP[0], ports=ports)]
    lab.publish()
    eventually(lambda: client.who(OTHER_VIP) in WEB)

    assert "SCTP is not supported" in problems(agent)["Service default/other"]


# ---- shapes of sources -------------------------------------------------------------------


def test_json_as_kubectl_writes_it_is_a_state_file(agent: Agent, client: Remote, lab: Lab) -> None:
    """interface.md §3: `kind: List`."""
    written = state(lab, echo_service("other", OTHER_VIP[0]))
    items = [*written["services"], *written["endpoints"], *written["nodes"]]

    lab.write_state(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    eventually(lambda: client.who(OTHER_VIP) in WEB)

    eventually(lambda: problems(agent) == {})


def test_stream_of_documents_is_a_state_file(agent: Agent, client: Remote, lab: Lab) -> None:
    """interface.md §3: `---` documents with `kind:`."""
    written = state(lab, echo_service("other", OTHER_VIP[0]))
    items = [*written["services"], *written["endpoints"], *written["nodes"]]

    lab.write_state("---\n".join(f"{json.dumps(item)}\n" for item in items))
    eventually(lambda: client.who(OTHER_VIP) in WEB)

    eventually(lambda: problems(agent) == {})


def test_directory_of_files_is_followed_file_by_file(
    other_agent: Agent, client: Remote, lab: Lab, tmp_path: Path
) -> None:
    """interface.md §2: files added, broken, mended and removed; one does not hurt the other."""
    web, other = tmp_path / "web.json", tmp_path / "other.yaml"
    web.write_text(json.dumps(state(lab, WEB_SERVICE)))
    (tmp_path / "README.txt").write_text("not read")
    other_agent.state_file = tmp_path
    other_agent.start()
    other_agent.wait_ready()
    assert client.who(VIP) in WEB

    other_state = state(lab, echo_service("other", OTHER_VIP[0]))
    del other_state["nodes"]
    other.write_text(json.dumps(other_state))
    eventually(lambda: client.who(OTHER_VIP) in WEB)
    other.write_text("{")
    eventually(lambda: str(other) in problems(other_agent))
    assert client.who(OTHER_VIP) in WEB
    web.write_text(json.dumps(state(lab, echo_service("web", "10.96.0.11"))))
    eventually(lambda: client.who(("10.96.0.11", 7000)) in WEB)
    other.unlink()
    eventually(lambda: client.who(OTHER_VIP) == "EHOSTUNREACH")

    eventually(lambda: problems(other_agent) == {})
    assert client.who(("10.96.0.11", 7000)) in WEB


def test_unreadable_file_of_a_directory_at_start_deletes_nothing(
    other_agent: Agent, client: Remote, lab: Lab, tmp_path: Path
) -> None:
    """R8, F17: what an earlier agent programmed may be that file's."""
    web, other = tmp_path / "web.json", tmp_path / "other.json"
    web.write_text(json.dumps(state(lab, WEB_SERVICE)))
    other.write_text(json.dumps(state(lab, echo_service("other", OTHER_VIP[0]))))
    other_agent.state_file = tmp_path
    other_agent.start()
    other_agent.wait_ready()

    other_agent.kill()
    other.write_text("{")
    other_agent.start()
    other_agent.wait_ready()
    before = client.who(OTHER_VIP)
    other.unlink()
    eventually(lambda: client.who(OTHER_VIP) == "EHOSTUNREACH")

    assert before in WEB
    assert client.who(VIP) in WEB


# ---- nodes -------------------------------------------------------------------------------


def test_zone_of_the_node_decides_which_hinted_endpoints_serve(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """R70, R71, R75: live, and without a zone hints are ignored."""
    written = state(lab, echo_service("hinted", OTHER_VIP[0], selector=None))
    for pod, zone in (("web-0", "a"), ("web-1", "b")):
        slice_ = echo_slice("hinted", lab.pod(pod).ipv4, hints={"forZones": [{"name": zone}]})
        slice_["metadata"]["name"] += zone
        written["endpoints"].append(slice_)

    def move_node_to(zone: str | None) -> None:
        labels = written["nodes"][0]["metadata"]["labels"]
        labels.pop("topology.kubernetes.io/zone", None)
        if zone is not None:
            labels["topology.kubernetes.io/zone"] = zone
        lab.write_state(written)

    move_node_to("a")
    eventually(lambda: answers(client, OTHER_VIP) == {"web-0"})
    move_node_to("b")
    eventually(lambda: answers(client, OTHER_VIP) == {"web-1"})
    move_node_to(None)
    eventually(lambda: answers(client, OTHER_VIP) == WEB)


def test_node_ports_of_other_nodes_come_and_go_with_their_node_objects(
    agent: Agent, client: Remote, lab: Lab
) -> None:
    """R89, R9: known nodes are resolved at the client; others are ordinary addresses."""
    ports = [{"name": "echo", "port": 7000, "nodePort": 30070}]
    written = state(lab, echo_service("np", OTHER_VIP[0], type="NodePort", ports=ports))
    own, other = (lab.node("node-1").ipv4, 30070), (lab.node("node-2").ipv4, 30070)

    lab.write_state(written)
    eventually(lambda: client.who(other) in WEB)
    own_answer = client.who(own)
    nodes, written["nodes"] = written["nodes"], written["nodes"][:1]
    lab.write_state(written)
    eventually(lambda: client.who(other) == "ECONNREFUSED")  # nothing listens there

    assert len(nodes) == 2
    assert own_answer in WEB
    assert client.who(own) in WEB


# ---- configuration -----------------------------------------------------------------------


def test_service_that_does_not_fit_is_refused_whole_and_the_others_work(
    other_agent: Agent, client: Remote, lab: Lab, tmp_path: Path
) -> None:
    """F35: reported with the map's name; served as soon as there is room."""
    config = tmp_path / "agent.yaml"
    config.write_text("map-sizes: {backends: 64, slots: 128, services: 32}\n")
    other_agent.options = (SOCKETS_ONLY, f"--config={config}")
    big = echo_service("big", "10.96.0.66", selector=None)
    written = state(lab, WEB_SERVICE, big, echo_service("other", OTHER_VIP[0]))
    many = [f"10.244.9.{number}" for number in range(1, 200)]
    written["endpoints"].append(echo_slice("big", *many))
    lab.write_state(written)

    other_agent.start()
    other_agent.wait_ready()

    complaints = problems(other_agent)
    assert list(complaints) == ["Service default/big"]
    assert "backends" in complaints["Service default/big"]
    assert client.who(("10.96.0.66", 7000)) == "EHOSTUNREACH"  # nothing of it is there
    assert answers(client) == WEB
    assert answers(client, OTHER_VIP) == WEB

    written["endpoints"][-1] = echo_slice("big", lab.pod("web-1").ipv4)
    lab.write_state(written)
    eventually(lambda: client.who(("10.96.0.66", 7000)) == "web-1")
    eventually(lambda: problems(other_agent) == {})


def test_more_services_than_fit_are_refused_one_by_one(
    other_agent: Agent, client: Remote, lab: Lab, tmp_path: Path
) -> None:
    """F35, F34: as many as there is room for are served, each other one is named."""
    config = tmp_path / "agent.yaml"
    config.write_text("map-sizes: {services: 32}\n")
    other_agent.options = (SOCKETS_ONLY, f"--config={config}")
    services = [echo_service(f"s{number:02}", f"10.96.2.{number}") for number in range(1, 41)]
    lab.write_state(state(lab, *services))

    other_agent.start()
    other_agent.wait_ready()

    refused = set(problems(other_agent))
    verdicts = {
        f"Service default/s{number:02}": client.who((f"10.96.2.{number}", 7000))
        for number in range(1, 41)
    }
    served = {name for name, answer in verdicts.items() if answer in WEB}
    assert refused
    assert served
    assert served | refused == set(verdicts)
    assert not served & refused
    assert {verdicts[name] for name in refused} == {"EHOSTUNREACH"}


@pytest.mark.parametrize("is_on", [True, False])
def test_bind_protection_keeps_node_ports_from_programs_of_the_node(
    other_agent: Agent, lab: Lab, client: Remote, tmp_path: Path, is_on: bool
) -> None:
    """R93: off by default; on, the wildcard and node addresses are refused, others are not."""
    config = tmp_path / "agent.yaml"
    config.write_text(f"bind-protection: {str(is_on).lower()}\n")
    other_agent.options = (SOCKETS_ONLY, f"--config={config}")
    ports = [{"name": "echo", "port": 7000, "nodePort": 30070}]
    lab.write_state(state(lab, echo_service("np", OTHER_VIP[0], type="NodePort", ports=ports)))
    other_agent.start()
    other_agent.wait_ready()
    node = lab.node("node-1")

    with Remote(node) as on_node:

        def can_bind(remote: Remote, family: int, address: str, port: int) -> bool:
            made = remote.tcp(family)
            try:
                made.bind((address, port))
            except PermissionError:
                return False
            finally:
                made.close()
            return True

        refused = [
            can_bind(on_node, 4, "0.0.0.0", 30070),
            can_bind(on_node, 6, "::", 30070),
            can_bind(on_node, 4, node.ipv4, 30070),
        ]
        allowed = [
            can_bind(on_node, 4, "127.0.0.1", 30071),
            can_bind(on_node, 4, "0.0.0.0", 30071),
            can_bind(client, 4, "0.0.0.0", 30070),
        ]

    assert refused == [not is_on] * 3
    assert all(allowed)


def test_status_names_the_source_and_the_node(agent: Agent, lab: Lab) -> None:
    """interface.md §4."""
    card = status(agent).agent

    assert card is not None
    assert (card.node, card.source) == ("node-1", str(lab.state_file))
    assert card.pid in agent.pids
