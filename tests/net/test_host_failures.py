# SPDX-License-Identifier: Apache-2.0
"""What the host does to an agent: F50 (bpffs), F60 (reboot), F66 (disk), F67 (limits, /proc)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_view import get, wait_log
from tests.support.eventually import eventually
from tests.support.manifests import echo_service
from tests.support.remote import Remote
from vipbee.datapath.open_files import NEEDED
from vipbee.lab import Agent, Lab, parse_topology
from vipbee.lab.probes import Stream

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: web-1, app: web, servers: [echo]}
      - {name: client-1}
"""
WEB = {"web-0", "web-1"}
VIP = ("10.96.0.10", 7000)
UNSERVED = "EHOSTUNREACH"


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        route = ["ip", "route", "add", "unreachable", "10.96.0.0/16"]
        lab.pod("client-1").run(route, check=True)
        lab.services[:] = [echo_service("web", VIP[0])]
        lab.publish()
        yield lab


@pytest.fixture
def agent(lab: Lab) -> Iterator[Agent]:
    """Running, with its pins in a bpffs that it mounted for itself."""
    config = lab.directory / "agent.yaml"
    config.write_text("audit-interval: 1s\n")
    agent = lab.agent("node-1")
    agent.options = (f"--config={config}",)
    agent.bpf_root = lab.directory / "bpf"
    agent.start()
    agent.wait_ready()
    yield agent
    agent.kill()
    if agent.bpf_root.is_mount():
        unmount(agent.bpf_root)


@pytest.fixture
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


def unmount(point: Path, *options: str) -> None:
    subprocess.run(["umount", *options, str(point)], check=True)


def answers(client: Remote) -> set[str]:
    return {client.who(VIP) for _ in range(30)}


# ---- where the pins are ------------------------------------------------------------------


def test_bpffs_unmounted_while_the_agent_runs_costs_no_connection(
    lab: Lab, agent: Agent, client: Remote
) -> None:
    """F50: it is mounted again with everything that was pinned, and the next start adopts that."""
    with Stream(lab.pod("client-1"), VIP, held=10) as stream:
        unmount(agent.bpf_root, "--lazy")
        wait_log(agent, "restored hooks or pins")
        lab.remove_endpoint("web-0")
        eventually(lambda: answers(client) == {"web-1"})
        lab.add_endpoint("web-0")
        log_end = len(agent.log.read_text())
        agent.restart()
        stream.report()

    assert stream.total.failures == ()
    assert stream.total.held_exchanges > 10
    assert agent.bpf_root.is_mount()
    assert "adopted=True" in wait_log(agent, "datapath loaded", after=log_end)
    assert answers(client) == WEB


def test_after_bpffs_was_empty_a_start_makes_everything_anew(agent: Agent, client: Remote) -> None:
    """F50, F60: as after a reboot; unmounted while no agent runs, all hooks go with it."""
    agent.stop()
    unmount(agent.bpf_root)
    eventually(lambda: client.who(VIP) == UNSERVED, what="the kernel frees links later")
    log_end = len(agent.log.read_text())

    agent.start()
    agent.wait_ready()

    assert "adopted=False" in wait_log(agent, "datapath loaded", after=log_end)
    assert answers(client) == WEB


# ---- what is short -----------------------------------------------------------------------


def test_an_agent_whose_log_cannot_be_written_works_on(agent: Agent, client: Remote) -> None:
    """F66: its log is on a full disk."""
    agent.stop()
    with open("/dev/full", "w") as full:
        process = agent.place.popen(agent.command(), stdout=full, stderr=full)
    eventually(lambda: get(agent, "/healthz").status == 200, within_s=20)

    served = answers(client)
    process.terminate()

    assert process.wait(10) == 0
    assert served == answers(client) == WEB


@pytest.mark.parametrize(
    ("around", "sentence"),
    [
        (["prlimit", f"--nofile={NEEDED - 1}"], f"at most {NEEDED - 1} files may be open"),
        (["unshare", "-m", "sh", "-c", 'umount -l /proc; exec "$@"', "sh"], "there is no /proc"),
    ],
    ids=["files", "proc"],
)
def test_what_is_lacking_is_one_sentence(
    agent: Agent, client: Remote, around: list[str], sentence: str
) -> None:
    """F67: and forwarding goes on."""
    agent.stop()

    done = agent.place.run([*around, *agent.command()])

    assert done.returncode == 3
    assert done.stderr.startswith(f"vipbee: {sentence}")
    assert done.stderr.count("\n") == 1
    assert answers(client) == WEB
