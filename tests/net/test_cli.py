# SPDX-License-Identifier: Apache-2.0
"""The commands an operator types on a node, with and without an agent there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.eventually import eventually
from tests.support.foreign_program import ForeignProgram, attached_programs
from tests.support.manifests import echo_service
from tests.support.remote import Remote
from vipbee.lab import Agent, Lab, parse_topology
from vipbee.lab.agent import cli_command

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: client-1}
  - name: node-2
    pods:
      - {name: web-1, app: web, servers: [echo]}
"""
VIP, VIP6, LOAD_BALANCER = ("10.96.0.10", 7000), ("fd00:10:96::10", 7000), "203.0.113.10"
WEB = {"web-0", "web-1"}
FORMATS = ("table", "wide", "json", "yaml")


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        lab.pod("client-1").run(["ip", "route", "add", "unreachable", "10.96.0.0/16"], check=True)
        ports = [
            {"name": "echo", "port": 7000, "nodePort": 30070},
            {"name": "echo-udp", "port": 7000, "protocol": "UDP"},
        ]
        service = echo_service(
            "web", VIP[0], VIP6[0], type="LoadBalancer", ports=ports, sessionAffinity="ClientIP"
        )
        service["status"] = {"loadBalancer": {"ingress": [{"ip": LOAD_BALANCER}]}}
        other = echo_service("other", "10.96.0.20", internalTrafficPolicy="Local")
        other["metadata"]["namespace"] = "team"
        lab.services[:] = [service, other]
        lab.publish()
        lab.start_agents(("--no-packet-lb",))
        yield lab


@pytest.fixture(params=["with agent", "without agent"])
def agent(request: pytest.FixtureRequest, lab: Lab) -> Agent:
    """The agent of node-1; the commands must work whether it runs or not."""
    agent = lab.agent("node-1")
    if request.param == "without agent":
        agent.kill()
    elif not agent.is_running:
        agent.start()
        agent.wait_ready()
    return agent


@pytest.fixture
def running(lab: Lab) -> Iterator[Agent]:
    """The agent of node-1, programmed and running before and after."""
    agent = lab.agent("node-1")
    if not agent.is_running:
        agent.start()
    agent.wait_ready()
    yield agent
    if not agent.is_running:
        agent.start()
    agent.wait_ready()


@pytest.fixture
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


def document(agent: Agent, *argv: str, form: str = "json") -> Any:
    done = agent.vipbee([*argv, "-o", form])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if form == "json" else yaml.safe_load(done.stdout)


# ---- looking -----------------------------------------------------------------------------


def test_service_list_shows_every_frontend_with_its_backends(lab: Lab, agent: Agent) -> None:
    """interface.md §4: frontends, type, policy, backends with state."""
    views = document(agent, "service", "list")

    (web,) = [v for v in views if (v["name"], v["family"], v["protocol"]) == ("web", "IPv4", "TCP")]
    assert {(f["type"], f["address"], f["port"]) for f in web["frontends"]} == {
        ("ClusterIP", VIP[0], 7000),
        ("LoadBalancer", LOAD_BALANCER, 7000),
        ("NodePort", "*", 30070),
    }
    assert {(b["address"], b["port"], b["state"], b["nodeLocal"]) for b in web["backends"]} == {
        (lab.pod("web-0").ipv4, 7000, "active", True),
        (lab.pod("web-1").ipv4, 7000, "active", False),
    }
    assert web["affinityTimeoutSeconds"] == 10800
    policies = {v["name"]: {f["policy"] for f in v["frontends"]} for v in views}
    assert policies == {"web": {"Cluster"}, "other": {"Local"}}


@pytest.mark.parametrize("kind", ["service", "backend"])
def test_lists_in_table_json_and_yaml_say_the_same(agent: Agent, kind: str) -> None:
    """interface.md §4: -o everywhere; piped: no colour, nothing cut."""
    as_json, as_yaml = (document(agent, kind, "list", form=form) for form in ("json", "yaml"))
    table, wide = (agent.vipbee([kind, "list", "-o", form]).stdout for form in ("table", "wide"))

    assert as_json == as_yaml
    assert len(as_json) > 0
    for text in (table, wide):
        assert "\x1b" not in text
        assert "…" not in text
        assert "fd00:10:244:1::2" in text
        assert all(view["name"] in text for view in as_json)
    assert len(table.splitlines()[0]) < len(wide.splitlines()[0])


def test_lists_are_filtered_by_namespace_and_name(agent: Agent) -> None:
    by_namespace = document(agent, "service", "list", "--namespace", "team")
    by_name = document(agent, "backend", "list", "default/web")
    unknown = agent.vipbee(["service", "list", "default/nothing"])

    assert {view["name"] for view in by_namespace} == {"other"}
    assert {view["name"] for view in by_name} == {"web"}
    assert unknown.returncode == 1
    assert "default/nothing" in unknown.stderr


def test_backend_list_counts_open_connections(agent: Agent, client: Remote) -> None:
    """Counters of §4: opened and active, and they survive the agent."""

    def active() -> int:
        return sum(
            view["active"]
            for view in document(agent, "backend", "list", "default/web")
            if view["protocol"] == "TCP"
        )

    before = active()
    held = [client.tcp() for _ in range(5)]
    for tcp in held:
        tcp.connect(VIP)
    during = active()
    for tcp in held:
        tcp.close()

    assert (during - before, active() - before) == (5, 0)


def test_status_tells_whether_the_agent_runs_and_what_is_attached(agent: Agent) -> None:
    """interface.md §4, F48: attached is asked of the kernel."""
    view = document(agent, "status")
    text = agent.vipbee(["status"]).stdout

    assert view["running"] is agent.is_running
    assert view["programmed"] is True
    assert view["services"] == 2
    assert view["problems"] == []
    assert all(hook["attached"] for hook in view["hooks"])
    assert "vipbee_connect4" in {hook["name"] for hook in view["hooks"]}
    assert {hook["cgroup"] for hook in view["hooks"] if "connect" in hook["name"]} == {
        str(agent.node_cgroup)
    }
    assert ("running (pid" in text) is agent.is_running
    assert ("not running" in text) is not agent.is_running


@pytest.mark.parametrize("form", FORMATS)
def test_status_has_every_format(running: Agent, form: str) -> None:
    """interface.md §4."""
    done = running.vipbee(["status", "-o", form])

    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert str(running.bpf_root) in done.stdout


def test_check_finds_this_machine_usable_beside_a_running_agent(running: Agent) -> None:
    """interface.md §4; nothing of the agent's is disturbed."""
    roots = [f"--bpf-root={running.bpf_root}", f"--cgroup-root={running.node_cgroup}"]
    before = attached_programs(running.node_cgroup)

    done = running.place.run(cli_command(["check", "-o", "json", *roots]))

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["usable"] is True
    assert attached_programs(running.node_cgroup) == before


# ---- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["frobnicate"], 2),
        (["status", "--no-such-option"], 2),
        (["service", "list", "-o", "xml"], 2),
        (["service", "list", "a/b/c"], 2),
        (["agent"], 2),
        (["agent", "--state-file=x", "--kubeconfig=y"], 2),
        (["agent", "--state-file=x", "--healthz-bind-address=nowhere"], 2),
        (["agent", "--state-file=x", "--config=/nonexistent/agent.yaml"], 2),
        (["service", "list", "--bpf-root=/sys/fs/bpf/vipbee-no-such"], 1),
        (["status", "--bpf-root=/sys/fs/bpf/vipbee-no-such"], 1),
        (["cleanup", "--bpf-root=/sys/fs/bpf/vipbee-no-such"], 0),
        (["cleanup", "--bpf-root=/tmp"], 3),
        (["cleanup", "--bpf-root=/sys/fs/bpf"], 3),
    ],
)
def test_exit_codes_and_one_sentence(lab: Lab, argv: list[str], code: int) -> None:
    """interface.md §2: 2 usage, 3 environment; never a traceback."""
    done = lab.node("node-1").run(cli_command(argv))

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code > 1:
        assert done.stderr.startswith("vipbee: ")


def test_agent_without_a_usable_cgroup_exits_with_3_and_the_remedy(
    lab: Lab, running: Agent
) -> None:
    """interface.md §2, F49: another pin root, so that the lock is not what refuses it."""
    root = running.bpf_root.with_name("elsewhere")
    done = running.place.run(
        cli_command(
            [
                *("agent", f"--state-file={lab.state_file}", f"--bpf-root={root}"),
                *("--cgroup-root=/nonexistent", "--healthz-bind-address="),
                "--metrics-bind-address=",
            ]
        )
    )

    assert done.returncode == 3, done.stderr
    assert "--cgroup-root" in done.stderr
    assert "Traceback" not in done.stderr


def test_cleanup_is_refused_while_the_agent_runs(running: Agent, client: Remote) -> None:
    """interface.md §4: exit code 3, and nothing is removed."""
    done = running.vipbee(["cleanup"])

    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert client.who(VIP) in WEB


# ---- cleanup -----------------------------------------------------------------------------


def test_cleanup_removes_exactly_what_vipbee_made(lab: Lab, running: Agent, client: Remote) -> None:
    """interface.md §4, D168: another's program and pin stay; VIPs are ordinary addresses again."""
    foreign_pin = running.bpf_root.with_name("foreign")
    held = client.tcp()
    held.connect(VIP)
    name = held.ask()
    ours = attached_programs(running.node_cgroup)

    with ForeignProgram(running.node_cgroup, allows=True) as foreign:
        foreign.pin(foreign_pin)
        try:
            running.stop()
            done = running.vipbee(["cleanup", "-o", "json"])
            left = attached_programs(running.node_cgroup)
            pin_is_there = foreign_pin.exists()
        finally:
            foreign_pin.unlink()
    again = running.vipbee(["cleanup"])

    removed = json.loads(done.stdout)["removed"]
    assert any("links/vipbee_connect4" in path for path in removed)
    assert not running.bpf_root.exists()
    assert (ours, left) == (1, 1)
    assert pin_is_there
    assert again.returncode == 0
    assert "nothing to remove" in again.stdout
    assert client.who(VIP) == "EHOSTUNREACH"
    assert held.ask() == name  # an open connection goes on
    assert running.vipbee(["service", "list"]).returncode == 1


def test_program_of_others_at_the_same_hook_keeps_its_say(
    lab: Lab, running: Agent, client: Remote
) -> None:
    """F53, D168: a firewall that denies connect4 denies it with us, and only while it is there."""
    with ForeignProgram(running.node_cgroup, allows=False):
        denied = client.who(VIP)
        ipv6 = client.who(VIP6)
    eventually(lambda: client.who(VIP) in WEB)

    assert denied == "EPERM"
    assert ipv6 in WEB


def test_agent_started_beside_a_program_of_others_serves(
    lab: Lab, running: Agent, client: Remote
) -> None:
    """D168: attached first, and not disturbed by our start."""
    running.stop()
    assert running.vipbee(["cleanup"]).returncode == 0
    with ForeignProgram(running.node_cgroup, allows=True):
        running.start()
        running.wait_ready()

        assert client.who(VIP) in WEB
        assert attached_programs(running.node_cgroup) == 2


def test_nothing_of_vipbee_is_left_when_the_last_pin_goes(running: Agent, lab: Lab) -> None:
    """interface.md §4: the pin root itself goes too; others beside it stay."""
    beside = Path(running.bpf_root.parent)
    before = {path.name for path in beside.iterdir()}

    running.stop()
    running.vipbee(["cleanup"])

    assert {path.name for path in beside.iterdir()} == before - {"node-1"}
