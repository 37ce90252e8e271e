# SPDX-License-Identifier: Apache-2.0
"""The whole agent without rights: everything it does, and nothing it has (issue 4 §3).

All other tests here run the agent in this way, too; this one looks at its rights meanwhile.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_view import wait_log
from tests.support.eventually import eventually
from tests.support.manifests import echo_service
from tests.support.remote import Remote
from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath.pins import PinDirectory
from vipbee.lab import Agent, Lab, parse_topology
from vipbee.privileged.drop import Rights, read_rights
from vipbee.privileged.helper import NAME as HELPER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

NODE = "node-1"
VIP, VIP6 = ("10.96.0.10", 7000), ("fd00:10:96::10", 7000)
WEB = ("web-0", "web-1")
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
CONFIG = """\
packet-lb: true
audit-interval: 1s
map-sizes: {conntrack: 65536, conntrack_new: 16384, udp_flows: 4096, backends: 65536}
"""
ASKED = 30


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        lab.pod("client-1").run(["ip", "route", "add", "unreachable", "10.96.0.0/16"], check=True)
        lab.services[:] = [echo_service("web", VIP[0], VIP6[0])]
        lab.publish()
        lab.state_file.chmod(0o600)  # root's alone: the helper opens it
        config = lab.directory / "agent.yaml"
        config.write_text(CONFIG)
        lab.start_agents((f"--config={config}",))
        yield lab


@pytest.fixture
def agent(lab: Lab) -> Agent:
    agent = lab.agent(NODE)
    if not agent.is_running:
        agent.start()
    agent.wait_ready()
    return agent


@pytest.fixture
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


def main_pid(agent: Agent) -> int:
    (pid,) = [pid for pid in agent.pids if not is_helper(pid)]
    return pid


def helper_pid(agent: Agent) -> int:
    (pid,) = [pid for pid in agent.pids if is_helper(pid)]
    return pid


def is_helper(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_bytes().strip() == HELPER


def rights_of(agent: Agent) -> Rights:
    rights = read_rights(main_pid(agent))
    assert rights is not None
    return rights


def answers(client: Remote) -> set[str]:
    return {client.who(VIP) for _ in range(ASKED)}


def test_the_agent_has_no_rights_whatsoever(agent: Agent) -> None:
    """Who reads what the API server sends is nobody, in no thread and by no exec."""
    eventually(lambda: len(agent.pids) == 2, within_s=10)
    threads = Path(f"/proc/{main_pid(agent)}/task").iterdir()

    for thread in threads:
        rights = Rights((thread / "status").read_text())
        assert 0 not in rights.uids
        assert (rights.permitted, rights.bounding, rights.has_no_new_privileges) == (0, 0, True)
    status = agent.vipbee(["status"]).stdout
    assert "none, as user" in next(line for line in status.splitlines() if "Rights" in line)


def test_the_agent_holds_no_program_and_no_link(agent: Agent) -> None:
    """With a program's fd a process without rights could attach it anywhere."""
    kinds = {
        os.readlink(fd) for fd in Path(f"/proc/{main_pid(agent)}/fd").iterdir() if fd.is_symlink()
    }

    assert "anon_inode:bpf-map" in kinds
    assert not {"anon_inode:bpf-prog", "anon_inode:bpf_link"} & kinds


def test_it_programs_and_follows_a_file_that_only_root_may_read(
    lab: Lab, agent: Agent, client: Remote
) -> None:
    assert lab.state_file.stat().st_mode & 0o077 == 0
    assert answers(client) == set(WEB)

    lab.remove_endpoint("web-0")
    lab.state_file.chmod(0o600)
    eventually(lambda: answers(client) == {"web-1"}, within_s=5)
    lab.add_endpoint("web-0")
    lab.state_file.chmod(0o600)
    eventually(lambda: answers(client) == set(WEB), within_s=5)


def test_it_follows_devices(lab: Lab, agent: Agent) -> None:
    directory = PinDirectory(agent.bpf_root / LAYOUT_VERSION)

    def links() -> set[str]:
        return {name for name in directory.names("links") if name.startswith("tc-")}

    before = links()
    far = lab.blueprint.client.namespace
    node = lab.node(NODE)
    node.run(["ip", "link", "add", "vnew", "type", "veth", "peer", "vfar", "netns", far])
    node.run(["ip", "link", "set", "vnew", "up"], check=True)
    eventually(lambda: len(links() - before) == 2, within_s=2)
    node.run(["ip", "link", "del", "vnew"], check=True)
    eventually(lambda: links() == before, within_s=2)


def test_it_releases_sockets_of_pods(lab: Lab, agent: Agent, client: Remote) -> None:
    """R111."""
    udp = client.udp()
    udp.connect(VIP)
    name = udp.ask()

    lab.remove_endpoint(name)

    with pytest.raises(ConnectionAbortedError):
        udp.recv()
    lab.add_endpoint(name)


def test_it_brings_back_what_somebody_removed(agent: Agent, client: Remote) -> None:
    """F57."""
    directory = PinDirectory(agent.bpf_root / LAYOUT_VERSION)
    directory.remove("links", "vipbee_connect4")
    directory.remove("maps", "frontends")

    eventually(
        lambda: (
            "frontends" in directory.names("maps") and "vipbee_connect4" in directory.names("links")
        ),
        within_s=20,
    )
    wait_log(agent, "restored hooks or pins")
    eventually(lambda: answers(client) == set(WEB), within_s=5)
    assert rights_of(agent).permitted == 0


def test_the_agent_ends_with_its_helper_and_says_so(agent: Agent, client: Remote) -> None:
    """F70: it is started again by whoever started it; forwarding goes on meanwhile."""
    log_end = len(agent.log.read_text())

    os.kill(helper_pid(agent), signal.SIGKILL)

    eventually(lambda: not agent.is_running, within_s=10)
    wait_log(agent, "the privileged helper process has ended", after=log_end)
    assert answers(client) == set(WEB)


def test_the_helper_ends_with_its_agent(agent: Agent, client: Remote) -> None:
    eventually(lambda: len(agent.pids) == 2, within_s=10)
    helper = helper_pid(agent)
    os.kill(main_pid(agent), signal.SIGKILL)

    eventually(lambda: not Path(f"/proc/{helper}").exists(), within_s=5)
    assert answers(client) == set(WEB)


def test_signals_that_stop_the_agent_do_not_stop_the_helper_first(agent: Agent) -> None:
    """F69: systemd and Ctrl-C tell all processes at once."""
    eventually(lambda: len(agent.pids) == 2, within_s=10)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper_pid(agent), number)
    log_end = len(agent.log.read_text())

    agent.stop()

    assert "stopped; forwarding goes on" in agent.log.read_text()[log_end:]


def test_rights_are_kept_if_the_operator_wants_that(lab: Lab, agent: Agent) -> None:
    agent.stop()
    options, agent.options = agent.options, (*agent.options, "--privileged")
    try:
        agent.start()
        agent.wait_ready()
        (pid,) = agent.pids
        rights = read_rights(pid)
        agent.stop()
    finally:
        agent.options = options

    assert rights is not None
    assert rights.uids == {0}


def test_cleanup_leaves_nothing(agent: Agent) -> None:
    agent.stop()

    done = agent.vipbee(["cleanup"])

    assert done.returncode == 0
    assert not agent.bpf_root.exists()
