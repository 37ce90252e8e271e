# SPDX-License-Identifier: Apache-2.0
"""An agent on a node where a kube-proxy is or was: refused, and with --takeover in its place.

Which rules go: test_takeover_rules.py. F55.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import kube_proxy_rules as rules
from tests.support.agent_view import problems
from tests.support.eventually import eventually
from tests.support.manifests import echo_service
from tests.support.remote import Remote
from vipbee.lab import Agent, Lab, Place, parse_topology

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: client-1}
"""
VIP = "10.96.0.10"
QUIET = 'metrics-bind-address: ""\npacket-lb: false\n'  # where a kube-proxy would answer
TAKEN_S = 20.0
KUBE_PROXY = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"iptables" if self.path == "/proxyMode" else b"")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", 10249), Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        (lab.directory / "agent.yaml").write_text(QUIET)
        lab.services[:] = [echo_service("web", VIP, "fd00:10:96::10")]
        lab.publish()
        yield lab


@pytest.fixture
def agent(lab: Lab) -> Iterator[Agent]:
    """The node's agent, not started, beside everybody's rules and kube-proxy's."""
    node = lab.node("node-1")
    agent = lab.agent("node-1")
    martian = '-m comment --comment "block incoming'
    load(node, rules.OTHERS.replace(martian, f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {martian}"))
    load(node, rules.kube_proxy_iptables(4))
    node.run(["nft", "-f", "-"], input=rules.kube_proxy_nftables(6), check=True)
    yield agent
    agent.kill()
    agent.vipbee(["cleanup"])
    node.run(["nft", "flush", "ruleset"], check=True)


@pytest.fixture
def kube_proxy(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """What a kube-proxy that is alive shows of itself."""
    with lab.node("node-1").popen(["python3", "-c", KUBE_PROXY]) as process:
        yield process
        process.kill()


def load(node: Place, text: str) -> None:
    node.run(["iptables-nft-restore", "--noflush", "--counters"], input=text, check=True)


def options(lab: Lab, *more: str) -> tuple[str, ...]:
    return (f"--config={lab.directory / 'agent.yaml'}", *more)


def ruleset(node: Place) -> str:
    return node.run(["nft", "--stateless", "list", "ruleset"], check=True).stdout


def test_agent_refuses_to_start_beside_rules_of_kube_proxy(lab: Lab, agent: Agent) -> None:
    """F55"""
    agent.options = options(lab)
    before = ruleset(lab.node("node-1"))

    done = agent.place.run(agent.command())

    assert done.returncode == 3
    assert "kube-proxy is on this node" in done.stderr
    assert "17 chains in iptables-nft" in done.stderr
    assert "--takeover" in done.stderr
    assert "Traceback" not in done.stderr
    assert not agent.bpf_root.exists()
    assert ruleset(lab.node("node-1")) == before


def test_check_shows_what_kube_proxy_left(lab: Lab, agent: Agent) -> None:
    done = agent.vipbee(["check", "-o", "json", f"--cgroup-root={agent.node_cgroup}"])
    found = {finding["what"]: finding for finding in json.loads(done.stdout)["findings"]}

    assert done.returncode == 0
    assert found["kube-proxy in iptables-nft"]["used"] == "17 chains"
    assert found["kube-proxy in iptables-nft"]["result"] == "warning"
    assert "--takeover" in found["kube-proxy in iptables-nft"]["remedy"]
    assert found["kube-proxy in ip6tables-nft"]["used"] == "none"
    assert found["kube-proxy in nftables"]["used"] == "table ip6 kube-proxy"
    assert found["kube-proxy"]["used"] == "does not run"


def test_takeover_removes_the_rules_when_services_are_served_here(lab: Lab, agent: Agent) -> None:
    node = lab.node("node-1")
    agent.options = options(lab, "--takeover")

    agent.start()
    agent.wait_ready()
    eventually(lambda: "KUBE-SVC" not in ruleset(node), within_s=TAKEN_S)

    after = ruleset(node)
    assert "kube-proxy" not in after
    assert "KUBE-FIREWALL" in after
    assert "CNI-HOSTPORT-DNAT" in after
    with Remote(lab.pod("client-1")) as client:
        assert client.who((VIP, 7000)) == "web-0"
    # nobody serves clients outside now: an operator must know
    eventually(lambda: "packet-lb" in problems(agent).get("kube-proxy", ""))


def test_rules_stay_until_a_first_complete_programming(lab: Lab, agent: Agent) -> None:
    """Never is there a moment when nobody serves (R8)."""
    node = lab.node("node-1")
    before = ruleset(node)
    agent.state_file = lab.directory / "not-there-yet.yaml"
    agent.options = options(lab, "--takeover")
    try:
        agent.start()
        eventually(lambda: "not-there-yet.yaml" in agent.log.read_text(), within_s=TAKEN_S)
        untouched = ruleset(node)

        agent.state_file.write_text(lab.state_file.read_text())
        eventually(lambda: "KUBE-SVC" not in ruleset(node), within_s=TAKEN_S)
    finally:
        agent.state_file.unlink(missing_ok=True)
        agent.state_file = lab.state_file

    assert untouched == before


def test_rules_of_a_living_kube_proxy_stay_until_it_is_gone(
    lab: Lab, agent: Agent, kube_proxy: subprocess.Popen[str]
) -> None:
    """F55: it would write them again; so it is told first, by name of where it was seen."""
    node = lab.node("node-1")
    agent.options = options(lab, "--takeover")

    agent.start()
    agent.wait_ready()
    eventually(
        lambda: "127.0.0.1:10249" in problems(agent).get("kube-proxy", ""),
        within_s=TAKEN_S,
    )
    assert "KUBE-SVC" in ruleset(node)
    kube_proxy.kill()

    eventually(lambda: "KUBE-SVC" not in ruleset(node), within_s=TAKEN_S)
