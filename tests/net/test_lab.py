# SPDX-License-Identifier: Apache-2.0
"""The lab itself: its network works, it leaves the machine alone, it goes away.

Without agents: what is dialled here is pod addresses, never a VIP.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vipbee.lab import Lab, Topology, cgroups, parse_topology, teardown
from vipbee.lab.blueprint import lab_cgroup, namespace_prefix
from vipbee.lab.errors import LabError
from vipbee.lab.namespaces import list_namespaces
from vipbee.lab.place import child_environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

LAB = f"t{os.getpid() % 100000}lab"
TOPOLOGY = """
network: {network}
nodes:
  - name: node-1
    pods:
      - {{name: web-0, app: web, servers: [nginx, echo]}}
      - {{name: host-0, app: host, hostNetwork: true, servers: ["echo:7100"]}}
      - {{name: client-1}}
  - name: node-2
    pods:
      - {{name: web-1, app: web, servers: ["nginx:80", echo]}}
      - {{name: dns-0, app: dns, servers: [dns]}}
services:
  - metadata: {{name: web}}
    spec:
      clusterIPs: [10.96.0.10, "fd00:10:96::10"]
      selector: {{app: web}}
      ports: [{{name: http, port: 80, targetPort: 8080}}]
"""
HOLD_LAB = """
import sys
from vipbee.lab import Lab, parse_topology
lab = Lab.up(parse_topology(sys.argv[1]), name=sys.argv[2], agents=False)
lab.pod("client-1").run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
print("up", flush=True)
sys.stdin.read()
"""


def topology(network: str = "routed") -> Topology:
    return parse_topology(TOPOLOGY.format(network=network))


def leftovers(lab: str) -> list[str]:
    """Everything on this machine that is named after `lab`."""
    paths = [
        cgroups.find_cgroup2() / lab_cgroup(lab),
        teardown.run_directory(lab),
        teardown.pin_directory(lab),
    ]
    return list_namespaces(namespace_prefix(lab)) + [str(p) for p in paths if p.exists()]


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.fixture(scope="module", params=["routed", "bridged"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab.up(topology(request.param), name=LAB, agents=False) as lab:
        yield lab


@pytest.fixture
def spare_name() -> Iterator[str]:
    """A lab name of its own, cleaned up whatever the test leaves."""
    name = f"{LAB}x"
    teardown.tear_down(name)
    yield name
    teardown.tear_down(name)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("target", ["web-0", "web-1"])
@pytest.mark.parametrize("origin", ["client-1", "web-1", "node-1", "node-2"])
def test_every_pod_answers_pods_and_nodes_with_its_name(
    lab: Lab, origin: str, target: str, family: int
) -> None:
    address = lab.pod(target).address(family)
    url = (
        f"http://{address if family == 4 else f'[{address}]'}:{8080 if target == 'web-0' else 80}/"
    )

    done = lab.place(origin).run(["curl", "-sS", "--max-time", "5", url])

    assert (done.stdout, done.returncode) == (f"{target}\n", 0), done.stderr


@pytest.mark.parametrize("family", [4, 6])
def test_pod_addresses_are_not_rewritten_between_nodes(lab: Lab, family: int) -> None:
    pod, client = lab.pod("web-1"), lab.pod("client-1")
    address = pod.address(family)

    done = client.run(
        ["curl", "-sS", f"http://{f'[{address}]' if family == 6 else address}/client"]
    )

    assert done.stdout.split()[:2] == ["web-1", client.address(family)]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dns_server_answers_which_pod_it_is(lab: Lab, transport: str, family: int) -> None:
    server = lab.pod("dns-0").address(family)

    done = lab.pod("client-1").run(
        ["dig", transport, "+short", "+tries=1", "+timeout=5", f"@{server}", "whoami.lab", "TXT"]
    )

    assert done.stdout == '"dns-0"\n'


def test_dns_server_knows_the_services(lab: Lab) -> None:
    name, server = "web.default.svc.cluster.local", lab.pod("dns-0").ipv4

    done = lab.pod("client-1").run(["dig", "+short", f"@{server}", name, "A", name, "AAAA"])

    assert done.stdout.split() == ["10.96.0.10", "fd00:10:96::10"]


@pytest.mark.parametrize(("pod", "port"), [("web-1", 7000), ("host-0", 7100)])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_echo_server_says_who_asks_whom(
    lab: Lab, kind: str, family: int, pod: str, port: int
) -> None:
    code = (
        "import socket, sys; kind, family, address, port = sys.argv[1:];"
        "s = socket.socket(getattr(socket, family), getattr(socket, kind)); s.settimeout(5);"
        "s.connect((address, int(port))); s.send(b'whoami'); print(s.recv(99).decode(), end='');"
        "s.send(b'x'); print(s.recv(9).decode())"
    )
    client, address = lab.pod("client-1"), lab.pod(pod).address(family)

    name = {4: "AF_INET", 6: "AF_INET6"}[family]
    done = client.run([sys.executable, "-IS", "-c", code, kind, name, address, str(port)])

    words = done.stdout.split()
    assert (words[0], words[1], words[3]) == (pod, client.address(family), "x"), done.stderr


def test_host_network_pod_shares_the_nodes_namespace_and_not_its_cgroup(lab: Lab) -> None:
    pod, node = lab.pod("host-0"), lab.node("node-1")

    namespace, cgroup = (
        pod.run(["sh", "-c", "readlink /proc/self/ns/net; grep ^0:: /proc/self/cgroup"])
        .stdout.strip()
        .split("\n")
    )

    assert namespace == node.run(["readlink", "/proc/self/ns/net"]).stdout.strip()
    assert cgroup == f"0::/vipbee-lab/{LAB}/node-1/host-0"


@pytest.mark.parametrize("address", ["10.96.0.10", "[fd00:10:96::10]", "192.0.2.1"])
def test_untranslated_vip_packet_gets_an_unreachable_and_never_leaves(
    lab: Lab, address: str
) -> None:
    done = lab.pod("client-1").run(["curl", "-sS", "--max-time", "5", f"http://{address}/"])

    assert done.returncode == 7  # failed to connect; 28 would be a timeout


def test_outside_client_reaches_nodes_and_not_pods(lab: Lab) -> None:
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"

    def dial(place: str, port: int) -> int:
        argv = [sys.executable, "-IS", "-c", code, lab.place(place).ipv4, str(port)]
        return lab.client.run(argv).returncode

    assert (dial("node-1", 7100), dial("web-1", 7000)) == (0, 1)


def test_lab_has_no_packet_filter_rules(lab: Lab) -> None:
    for node in lab.nodes:
        assert node.run(["nft", "list", "ruleset"]).stdout == ""


def test_nothing_in_the_machines_own_namespace_changes(spare_name: str) -> None:
    def own_network() -> list[str]:
        queries = (["-o", "link"], ["-o", "addr"], ["route", "show", "table", "all"])
        queries += (["-6", "route", "show", "table", "all"], ["rule"])
        return [
            subprocess.run(["ip", *query], capture_output=True, text=True, check=True).stdout
            for query in queries
        ] + [Path("/proc/sys/net/ipv4/ip_forward").read_text()]

    before = own_network()
    with Lab.up(topology(), name=spare_name, agents=False):
        during = own_network()

    assert [strip_lifetimes(text) for text in during] == [strip_lifetimes(t) for t in before]


def strip_lifetimes(text: str) -> list[str]:
    """Addresses and routes by DHCP or RA count down seconds."""
    return [line.split(" valid_lft")[0].split(" expires ")[0] for line in text.splitlines()]


def test_down_removes_everything_and_may_be_repeated(spare_name: str) -> None:
    lab = Lab.up(topology(), name=spare_name, agents=False)
    sleeper = lab.pod("client-1").popen(["sh", "-c", "echo started; exec sleep 1000"])
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "started\n"
    assert set(lab.blueprint.namespaces) < set(leftovers(spare_name))

    lab.down()
    lab.down()

    assert leftovers(spare_name) == []
    assert sleeper.wait(timeout=5) == -signal.SIGKILL


def test_a_lab_that_fails_to_build_leaves_nothing(spare_name: str) -> None:
    with pytest.raises(LabError, match="agent of node-1 ended"):
        Lab.up(topology(), name=spare_name, agent_options=("--no-such-option",))

    assert leftovers(spare_name) == []


def test_leftovers_of_a_killed_run_are_replaced_by_the_next(spare_name: str) -> None:
    """Also a process that left its session and parent: the cgroup is the register."""
    argv = [sys.executable, "-c", HOLD_LAB, TOPOLOGY.format(network="routed"), spare_name]
    run = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "up\n"
    orphans = cgroups.processes(Lab.open(spare_name).pod("client-1").cgroup)
    run.kill()
    run.communicate()

    with Lab.up(topology(), name=spare_name, agents=False) as lab:
        answer = lab.pod("client-1").run(["curl", "-sS", f"http://{lab.pod('web-1').ipv4}/"])
        assert cgroups.processes(lab.pod("client-1").cgroup) == []

    assert answer.stdout == "web-1\n"
    assert orphans
    assert not [pid for pid in orphans if Path("/proc", str(pid), "cwd").exists()]
    assert leftovers(spare_name) == []


def vipbee_lab(*argv: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from vipbee.cli.lab import app; app(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
    )


def test_up_and_down_can_be_had_as_documents(spare_name: str, tmp_path: Path) -> None:
    """interface.md §4"""
    file = tmp_path / "lab.yaml"
    file.write_text(TOPOLOGY.format(network="routed"))

    up = vipbee_lab("up", str(file), "--name", spare_name, "--no-agents", "-o", "json")
    down = vipbee_lab("down", "--name", spare_name, "-o", "json")

    built = json.loads(up.stdout)
    assert (built["name"], built["state"]) == (spare_name, "up")
    assert "client" in {place["name"] for place in built["places"]}
    assert json.loads(down.stdout) == {"removed": [spare_name]}


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exec_passes_the_exit_code_and_the_output_through(lab: Lab, code: int) -> None:
    done = vipbee_lab("exec", "-n", LAB, "web-0", "--", "sh", "-c", f"echo out; exit {code}")

    assert (done.returncode, done.stdout) == (code, "out\n")


def test_exec_runs_in_the_pods_cgroup_and_namespace(lab: Lab) -> None:
    done = vipbee_lab("exec", "-n", LAB, "web-0", "--", "cat", "/proc/self/cgroup")
    links = vipbee_lab("exec", "-n", LAB, "web-0", "ip", "-o", "addr")

    assert f"0::/vipbee-lab/{LAB}/node-1/web-0\n" in done.stdout
    assert "10.244.1.2" in links.stdout


def test_state_file_follows_the_pods_readiness(lab: Lab) -> None:
    lab.set_ready("web-0", False)
    unready = lab.state_file.read_text()
    lab.remove_endpoint("web-0")
    removed = lab.state_file.read_text()
    lab.add_endpoint("web-0")

    assert unready.count("ready: false") == 2  # one endpoint a family
    assert removed.count("name: web-0") == 0
    assert lab.state_file.read_text().count("name: web-0") == 2
