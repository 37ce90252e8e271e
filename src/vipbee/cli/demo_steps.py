# SPDX-License-Identifier: Apache-2.0
"""What the demo shows, one function a step. Names and addresses are examples/lab.yaml's."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vipbee.cli.demo_scale import add_services, compare_connect_latency
from vipbee.cli.demo_stage import Stage
from vipbee.cli.lab_picture import draw_lab
from vipbee.lab import cgroups
from vipbee.lab.probes import Stream
from vipbee.lab.programs import find_program

WEB, WEB6, NODE_PORT = "10.96.0.10", "fd00:10:96::10", 30080
DNS, ECHO_PORT = "10.96.0.53", 7000
WEB_PODS = ("web-0", "web-1", "web-2")

REQUESTS = 300
FAIR_SHARE = (REQUESTS // 3 - 45, REQUESTS // 3 + 45)
"""5.5 standard deviations of a uniform choice: wrong once in 20 million runs."""

OUTSIDE_REQUESTS = 60
"""The chance that one of three backends gets none is 1 in 10 billion."""

HELD_CONNECTIONS = 50
CHANGE_TIMEOUT_S = 5.0

WHO_IS_THERE = """\
import json, os, socket, subprocess, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
s.sendall(b"whoami")
answer = s.recv(100).decode().split()
wire = subprocess.run(["ss", "-Htn"], capture_output=True, text=True).stdout.split()
print(json.dumps({"peer": s.getpeername()[0], "server": answer[0], "seen": answer[1],
                  "wire": wire[4] if wire else ""}))
"""


def show_cluster(stage: Stage) -> None:
    stage.heading("A cluster: two nodes, each with its agent; every pod a network namespace")
    stage.show(draw_lab(stage.lab))
    running = sum(agent.is_running for agent in stage.lab.agents)
    stage.claim(f"{running} of {len(stage.lab.agents)} agents are ready", running == 2)


def curl_cluster_ip(stage: Stage) -> None:
    stage.heading(f"{REQUESTS} connections to one ClusterIP spread over its three backends")
    argv = ["curl", "-sS", "-H", "Connection: close", f"http://{WEB}/?[1-{REQUESTS}]"]
    answers = Counter(stage.run(stage.lab.pod("client-1"), argv).stdout.split())
    stage.bars(answers)
    total = sum(answers[pod] for pod in WEB_PODS)
    low, high = FAIR_SHARE
    stage.claim(f"{total} of {REQUESTS} requests answered", total == REQUESTS)
    stage.claim(
        f"each backend got between {low} and {high}",
        all(low <= answers[pod] <= high for pod in WEB_PODS),
    )


def curl_other_frontends(stage: Stage) -> None:
    stage.heading("The same Service by its IPv6 ClusterIP and by NodePort")
    pod, node = stage.lab.pod("client-1"), stage.lab.node("node-1")
    other = stage.lab.node("node-2")
    for place, host in (
        (pod, f"[{WEB6}]"),
        (node, f"{node.ipv4}:{NODE_PORT}"),
        (node, f"127.0.0.1:{NODE_PORT}"),
        (pod, f"[{other.ipv6}]:{NODE_PORT}"),
    ):
        answer = stage.run(place, ["curl", "-sS", "-m", "3", f"http://{host}/"]).stdout.strip()
        stage.claim(f"answered by {answer or 'nobody'}", answer in WEB_PODS)


def curl_from_outside(stage: Stage) -> None:
    stage.heading("A client outside the cluster, without vipbee: packets to a NodePort")
    node = stage.lab.node("node-1")
    url = f"http://{node.ipv4}:{NODE_PORT}/?[1-{OUTSIDE_REQUESTS}]"
    argv = ["curl", "-sS", "-m", "20", "-H", "Connection: close", url]
    answers = Counter(stage.run(stage.lab.client, argv).stdout.split())
    stage.bars(answers)
    total = sum(answers[pod] for pod in WEB_PODS)
    stage.claim(f"{total} of {OUTSIDE_REQUESTS} answered", total == OUTSIDE_REQUESTS)
    stage.claim(
        "by the pod on node-1 and, through it, by both on node-2", set(answers) == set(WEB_PODS)
    )
    argv = ["curl", "-sS", "-m", "3", f"http://[{node.ipv6}]:{NODE_PORT}/"]
    answer = stage.run(stage.lab.client, argv).stdout.strip()
    stage.claim(f"the same over IPv6: {answer or 'nobody'}", answer in WEB_PODS)
    done = stage.lab.agent("node-1").vipbee(["conntrack", "list", "default/web", "-o", "json"])
    tracked = len(json.loads(done.stdout or "[]"))
    stage.claim(f"node-1 tracks {tracked} connections in its own table", tracked > 0)


def dig_udp_vip(stage: Stage) -> None:
    stage.heading("DNS over UDP: the answer comes from the VIP that was asked")
    client = stage.lab.pod("client-2")
    name = "web.default.svc.cluster.local"
    done = stage.run(client, ["dig", "+tries=1", "+time=2", f"@{DNS}", name])
    servers = re.findall(r";; SERVER: (\S+?)#", done.stdout)
    addresses = re.findall(rf"^{name}\.\s.*\sA\s+(\S+)", done.stdout, re.MULTILINE)
    stage.claim(f"{name} is {', '.join(addresses) or 'unknown'}", addresses == [WEB])
    stage.claim(f"reply source: {', '.join(servers) or 'none'}", servers == [DNS])


def show_peer_name(stage: Stage) -> None:
    stage.heading("The program sees the Service, the wire sees the backend")
    client = stage.lab.pod("client-1")
    stage.note(f"{client.name}: connect to {WEB} port {ECHO_PORT}, getpeername(), ss -tn")
    done = client.run([sys.executable, "-IS", "-c", WHO_IS_THERE, WEB, str(ECHO_PORT)])
    seen = json.loads(done.stdout or "{}")
    peer, source, wire = (seen.get(key, "nothing") for key in ("peer", "seen", "wire"))
    backends = {f"{stage.lab.pod(pod).ipv4}:{ECHO_PORT}" for pod in WEB_PODS}
    stage.claim(f"getpeername() says {peer}", peer == WEB)
    stage.claim(f"the connection goes to {wire}, no packet rewritten", wire in backends)
    stage.claim(f"{seen.get('server')} sees the client as {source}", source == client.ipv4)


def remove_backend(stage: Stage) -> None:
    stage.heading("A backend goes away while requests go on")
    lab, gone = stage.lab, WEB_PODS[-1]
    with Stream(lab.pod("client-1"), (WEB, ECHO_PORT)) as stream:
        before = stream.run_for(300)
        started = time.monotonic()
        lab.remove_endpoint(gone)
        took_s = _wait_without(stream, gone) - started
        for pid in cgroups.processes(lab.pod(gone).cgroup):
            os.kill(pid, signal.SIGKILL)
        after = stream.run_for(300)
        stage.bars(stream.total.answers)
        total = stream.total
    stage.claim(f"{gone} served before: {before.answers[gone]} requests", before.answers[gone] > 0)
    stage.claim(
        f"taken out of the state file, it got its last request within {took_s * 1000:.0f} ms",
        took_s < 1,
    )
    stage.claim(
        f"its programs were then killed: {after.answers[gone]} requests went there",
        after.answers[gone] == 0,
    )
    stage.claim_none_failed(total)


def kill_agent(stage: Stage) -> None:
    stage.heading("The agent is killed and started again while requests go on")
    agent = stage.lab.agent("node-1")
    client = stage.lab.pod("client-1")
    pinned = _pins(agent.bpf_root)
    with Stream(client, (WEB, ECHO_PORT), held=HELD_CONNECTIONS) as stream:
        stream.run_for(200)
        pids = agent.pids
        agent.kill()
        stage.note(f"node-1: kill -9 {' '.join(map(str, pids))}")
        without = stream.run_for(600)
        started = time.monotonic()
        agent.start()
        agent.wait_ready()
        ready_s = time.monotonic() - started
        stream.run_for(200)
        total = stream.total
    stage.claim(f"{without.requests} requests served without an agent", without.answers.total() > 0)
    stage.claim(
        f"ready again after {ready_s:.1f} s, having adopted all {len(pinned)} tables and hooks",
        bool(pinned) and pinned == _pins(agent.bpf_root),
    )
    stage.claim(
        f"{HELD_CONNECTIONS} long connections held: {total.held_exchanges} exchanges on them",
        total.held_exchanges > HELD_CONNECTIONS,
    )
    stage.claim_none_failed(total)


def count_rules(stage: Stage) -> None:
    stage.heading(f"What netfilter has to do for {len(stage.lab.services):,} Services: nothing")
    listings = {
        "iptables-save": "iptables",
        "ip6tables-save": "iptables",
        "nft list ruleset": "nft",
    }
    for command in listings:
        argv = command.split()
        if not find_program(argv[0]):
            stage.note(f"{argv[0]} is not installed, so nothing can have used it")
            continue
        rules = 0
        for node in stage.lab.nodes:
            done = node.run(argv)
            rules += sum(bool(line.strip()) for line in done.stdout.splitlines())
        stage.claim(f"{command} on both nodes: {rules} rules", rules == 0)


STEPS: tuple[Callable[[Stage], None], ...] = (
    show_cluster,
    curl_cluster_ip,
    curl_other_frontends,
    curl_from_outside,
    dig_udp_vip,
    show_peer_name,
    remove_backend,
    kill_agent,
    add_services,
    count_rules,
    compare_connect_latency,
)


def _wait_without(stream: Stream, pod: str) -> float:
    """Wait for 50 answers in a row without `pod`; the time at which they began."""
    deadline = time.monotonic() + CHANGE_TIMEOUT_S
    while True:
        began = time.monotonic()
        stream.report()
        if not stream.run_for(50).answers[pod] or began > deadline:
            return began


def _pins(bpf_root: Path) -> dict[str, int]:
    """Inodes of pinned maps and links by path; one that was made anew has another.

    Without programs and their constants, which a start may replace under the links.
    """
    pinned = [*bpf_root.glob("*/maps/*"), *bpf_root.glob("*/links/*")]
    return {str(path): path.stat().st_ino for path in pinned if path.name != "rodata"}
