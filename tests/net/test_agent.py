# SPDX-License-Identifier: Apache-2.0
"""The agent as a process: killed, stopped, doubled, absent, and what it repairs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.agent_view import get, problems, status, wait_log
from tests.support.eventually import eventually
from tests.support.manifests import echo_service
from tests.support.remote import Remote
from vipbee.abi import LAYOUT_VERSION, MapName
from vipbee.core.plan import Op
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.pins import PinDirectory
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
  - name: node-2
    pods:
      - {name: web-2, app: web, servers: [echo]}
      - {name: client-2}
"""
WEB = ("web-0", "web-1", "web-2")
VIP, VIP6, OTHER_VIP = ("10.96.0.10", 7000), ("fd00:10:96::10", 7000), ("10.96.0.20", 7000)
WEB_SERVICE = echo_service("web", VIP[0], VIP6[0])
ASKED = 40
"""One of three backends is not among so many uniform choices once in 10 million runs."""
KILLS = 10
HELD_CONNECTIONS = 50
QUICK_S = 2.0
AUDIT_EVERY = "audit-interval: 1s\n"


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        for place in ("client-1", "client-2"):  # an unserved VIP fails at once
            lab.pod(place).run(["ip", "route", "add", "unreachable", "10.96.0.0/16"], check=True)
        config = lab.directory / "agent.yaml"
        config.write_text(AUDIT_EVERY)
        lab.services[:] = [WEB_SERVICE]
        lab.publish()
        lab.start_agents((f"--config={config}",))
        yield lab


@pytest.fixture
def agent(lab: Lab) -> Iterator[Agent]:
    """The agent of node-1, running and ready before and after."""
    agent = lab.agent("node-1")
    yield agent
    lab.services[:] = [WEB_SERVICE]
    for pod in WEB:
        lab.add_endpoint(pod)
    agent.state_file = lab.state_file
    if not agent.is_running:
        agent.start()
    agent.wait_ready()


@pytest.fixture
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as remote:
        yield remote


def answers(client: Remote, address: tuple[str, int] = VIP) -> set[str]:
    return {client.who(address) for _ in range(ASKED)}


# ---- killed ------------------------------------------------------------------------------


def test_agent_killed_at_any_moment_loses_no_connection(
    lab: Lab, agent: Agent, client: Remote
) -> None:
    """R128, F38, F39: SIGKILL while starting, adopting and programming; changes all the time."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    place = lab.pod("client-1")

    with (
        Stream(place, VIP, held=HELD_CONNECTIONS) as stream,
        Stream(place, VIP6, held=HELD_CONNECTIONS) as stream6,
    ):
        for number in range(KILLS):
            agent.kill()
            agent.start()
            lab.remove_endpoint(WEB[number % 3])
            time.sleep(chance.uniform(0, 1.0))  # the random moment, not synchronisation
            lab.add_endpoint(WEB[number % 3])
        agent.kill()
        lab.remove_endpoint("web-1")
        agent.start()
        agent.wait_ready()
        stream.report()
        after = stream.run_for(60)
        stream6.report()

    for total in (stream.total, stream6.total):
        assert total.failures == (), f"seed {seed}"
        assert total.held_exchanges > HELD_CONNECTIONS
    assert set(after.answers) == {"web-0", "web-2"}, f"seed {seed}"
    assert problems(agent) == {}


def test_agent_killed_during_its_very_first_start_leaves_nothing_in_the_way(
    lab: Lab, client: Remote
) -> None:
    """F39, F38: pins appear complete or not at all; the next start converges."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    agent = lab.agent("node-1")

    for _ in range(3):
        agent.kill()
        assert agent.vipbee(["cleanup"]).returncode == 0
        agent.start()
        time.sleep(chance.uniform(0.2, 1.0))  # the random moment, not synchronisation
        agent.kill()
        agent.start()
        agent.wait_ready()

        assert answers(client) == set(WEB), f"seed {seed}"
        assert [pin.name for pin in agent.bpf_root.iterdir()] == [LAYOUT_VERSION]


def test_restart_adopts_maps_and_links(agent: Agent) -> None:
    """R128: the same kernel objects, so counters, flows and affinity stay."""
    before = pins(agent)

    agent.restart()

    assert before
    assert pins(agent) == before


def pins(agent: Agent) -> dict[str, int]:
    """Inodes by name: a pin made anew has another."""
    layout = agent.bpf_root / LAYOUT_VERSION
    found = [*layout.glob("maps/*"), *layout.glob("links/*")]
    return {pin.name: pin.stat().st_ino for pin in found}


# ---- stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_is_quick_and_clean_and_forwarding_goes_on(
    agent: Agent, client: Remote, number: signal.Signals
) -> None:
    """R128, F69, interface.md §2: exit code 0, nothing detached."""
    agent.stop()
    process = agent.place.popen(agent.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: get(agent, "/healthz").status == 200, within_s=20)

    started = time.monotonic()
    process.send_signal(number)
    process.send_signal(number)  # an impatient operator
    output, errors = process.communicate(timeout=10)
    took_s = time.monotonic() - started

    assert process.returncode == 0, errors
    assert "Traceback" not in output + errors
    assert took_s < QUICK_S
    assert answers(client) == set(WEB)


def test_changes_made_while_no_agent_runs_are_applied_at_start(
    lab: Lab, agent: Agent, client: Remote
) -> None:
    """R128, R8, F60: new Services served, deleted ones withdrawn, endpoints exchanged."""
    lab.services[:] = [WEB_SERVICE, echo_service("gone", OTHER_VIP[0])]
    lab.publish()
    eventually(lambda: client.who(OTHER_VIP) in WEB)
    held = client.tcp()
    held.connect(OTHER_VIP)
    name = held.ask()

    agent.stop()
    lab.services[:] = [WEB_SERVICE, echo_service("new", "10.96.0.30")]
    lab.remove_endpoint("web-0")
    still = client.who(OTHER_VIP)
    agent.start()
    agent.wait_ready()

    assert still in WEB
    assert client.who(OTHER_VIP) == "EHOSTUNREACH"  # nobody's address again
    assert answers(client) == answers(client, ("10.96.0.30", 7000)) == {"web-1", "web-2"}
    assert held.ask() == name


def test_udp_socket_of_an_endpoint_removed_while_no_agent_ran_is_released(
    lab: Lab, agent: Agent, client: Remote
) -> None:
    """R111, R128."""
    udp = client.udp()
    udp.connect(VIP)
    name = udp.ask()

    udp.settimeout(20)  # the agent has to start first

    agent.kill()
    lab.remove_endpoint(name)
    agent.start()

    with pytest.raises(ConnectionAbortedError):
        udp.recv()


# ---- started -----------------------------------------------------------------------------


def test_second_agent_exits_with_3_and_one_sentence(agent: Agent, client: Remote) -> None:
    """F54: the first one goes on."""
    second = agent.place.run(agent.command())

    assert second.returncode == 3
    assert second.stderr.count("\n") == 1
    assert second.stderr.startswith(f"vipbee: another vipbee process holds {agent.bpf_root}")
    assert agent.is_running
    assert answers(client) == set(WEB)


def test_agent_is_alive_but_not_ready_until_its_first_programming(
    lab: Lab, agent: Agent, client: Remote, tmp_path: Path
) -> None:
    """R8, R102, R103, F1: no state file yet; what was programmed before stays in force."""
    agent.stop()
    agent.state_file = tmp_path / "later.yaml"
    log_end = len(agent.log.read_text())

    agent.start()
    eventually(lambda: get(agent, "/healthz").status == 503, within_s=20)
    alive = get(agent, "/livez")
    line = wait_log(agent, "later.yaml", after=log_end)
    served = answers(client)
    agent.state_file.write_text(lab.state_file.read_text())
    agent.wait_ready()

    assert "No such file" in line
    assert alive.status == 200
    assert served == set(WEB)
    assert answers(client) == set(WEB)


def test_agent_that_starts_with_a_bad_file_keeps_what_is_programmed(
    lab: Lab, agent: Agent, client: Remote
) -> None:
    """F1, F31, R128: nothing is deleted on absence of knowledge."""
    good = lab.state_file.read_text()
    agent.stop()
    lab.write_state("services:\n  - metadata: {name: web\n")
    log_end = len(agent.log.read_text())

    agent.start()
    line = wait_log(agent, "state.yaml line ", after=log_end, within_s=20)
    ready = get(agent, "/healthz").status
    served = answers(client)
    lab.write_state(good)
    agent.wait_ready()

    assert "last good state" in line
    assert ready == 503
    assert served == set(WEB)


def test_health_and_metrics_servers_answer_as_kube_proxys(agent: Agent) -> None:
    """R102, R105, R106, R107, R108, R109."""
    health, live = get(agent, "/healthz"), get(agent, "/livez")
    metrics = get(agent, "/metrics", port=10249).body

    assert (health.status, live.status) == (200, 200)
    assert {"lastUpdated", "currentTime", "nodeEligible"} <= json.loads(health.body).keys()
    assert get(agent, "/nothing").status == 404
    assert get(agent, "/healthz", port=10249).body.strip() == "ok"
    assert get(agent, "/proxyMode", port=10249).status == 200
    for name in (
        'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}',
        'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"}',
        'kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}',
        'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}',
        'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}',
        'kubeproxy_sync_proxy_rules_endpoint_changes_pending{ip_family="IPv4"} 0.0',
        'kubeproxy_sync_proxy_rules_endpoint_changes_total{ip_family="IPv4"}',
        'kubeproxy_sync_proxy_rules_service_changes_pending{ip_family="IPv6"} 0.0',
        'kubeproxy_sync_proxy_rules_service_changes_total{ip_family="IPv6"}',
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",'
        'traffic_policy="internal"}',
        'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}',
        'kubeproxy_proxy_healthz_total{code="200"}',
        "kubeproxy_proxy_livez_total",
        "vipbee_event_to_programmed_seconds_count",
        'vipbee_map_pressure_ratio{map="backends"}',
        'vipbee_reasons_total{reason="no_endpoint"}',
        "process_resident_memory_bytes",
    ):
        assert name in metrics


def test_autoscaler_taint_makes_the_node_ineligible(lab: Lab, agent: Agent) -> None:
    """R104: /healthz 503, /livez 200; forwarding is not affected."""
    good = lab.state_file.read_text()
    tainted = good.replace(
        "spec:\n    podCIDRs:",
        "spec:\n    taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]\n"
        "    podCIDRs:",
    )
    assert tainted != good

    lab.write_state(tainted)
    eventually(lambda: get(agent, "/healthz").status == 503)
    live = get(agent, "/livez").status
    lab.write_state(good)
    eventually(lambda: get(agent, "/healthz").status == 200)

    assert live == 200


# ---- repairs -----------------------------------------------------------------------------


def repairs(agent: Agent) -> int:
    card = status(agent).agent
    assert card is not None
    return card.repairs


def test_audit_repairs_entries_that_somebody_removed(agent: Agent, client: Remote) -> None:
    """R130, F56: without a restart; reported by `vipbee status`."""
    repaired = repairs(agent)
    with KernelTables(PinDirectory(agent.bpf_root / LAYOUT_VERSION), load_layouts()) as tables:
        keys, _ = tables.read_hash(MapName.FRONTENDS)
        tables.apply(Op(MapName.FRONTENDS, keys, None))
        addresses, _ = tables.read_hash(MapName.ADDRESSES)
        tables.apply(Op(MapName.ADDRESSES, addresses, None))
    assert client.who(VIP) not in WEB

    eventually(lambda: client.who(VIP) in WEB, within_s=10)
    eventually(lambda: client.who(VIP6) in WEB, within_s=10)

    eventually(lambda: repairs(agent) >= repaired + len(keys))


def test_audit_repairs_entries_that_somebody_corrupted(agent: Agent, client: Remote) -> None:
    """R130, F37: every backend made unusable, every slot pointed at nothing, an entry added."""
    with KernelTables(PinDirectory(agent.bpf_root / LAYOUT_VERSION), load_layouts()) as tables:
        backends = tables.read_array(MapName.BACKENDS)
        ids = np.flatnonzero(backends["flags"]).astype(np.uint32)
        wrong = backends[ids].copy()
        wrong["port"] = 9
        tables.apply(Op(MapName.BACKENDS, ids, wrong))
        keys, values = tables.read_hash(MapName.FRONTENDS)
        strange = keys[:1].copy()
        strange["port"] = 4242
        tables.apply(Op(MapName.FRONTENDS, strange, values[:1]))
    assert client.who(VIP) == "ECONNREFUSED"  # nothing listens on port 9

    eventually(lambda: answers(client) == set(WEB), within_s=10)

    with KernelTables(PinDirectory(agent.bpf_root / LAYOUT_VERSION), load_layouts()) as tables:
        keys, _ = tables.read_hash(MapName.FRONTENDS)
    assert 4242 not in keys["port"].tolist()


@pytest.mark.parametrize("pin", ["links/vipbee_connect4", "maps/frontends"])
def test_pin_that_somebody_removed_comes_back(agent: Agent, client: Remote, pin: str) -> None:
    """R130, F57: within 10 seconds, without a restart."""
    path = agent.bpf_root / LAYOUT_VERSION / pin

    path.unlink()

    eventually(path.exists, within_s=10, what=f"{pin} is back")
    eventually(lambda: client.who(VIP) in WEB, within_s=10)
