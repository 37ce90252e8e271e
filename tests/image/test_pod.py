# SPDX-License-Identifier: Apache-2.0
"""The DaemonSet's pod, from the built image, with the rights it asks for, on a node of a lab.

What kubelet does of it: tests/support/kubelet.py.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import kube_proxy_rules as rules
from tests.support.apiserver.placed import PlacedApiServer
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.kubelet import Node
from tests.support.manifests import echo_service
from tests.support.remote import Remote
from vipbee.lab import Agent, Lab, endpoints, parse_topology
from vipbee.lab.errors import LabError

render_manifests = pytest.importorskip("tools.render_manifests")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: web-1, app: web, servers: [echo]}
      - {name: client-1}
  - name: node-2
"""
RESERVED_PORTS = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
VIP = ("10.96.0.10", 7000)
WEB = {"web-0", "web-1"}


class Pod:
    """vipbee's pod on node-1; `spec` is what `kubectl apply` would bring."""

    def __init__(self, lab: Lab, node: Node, spec: dict[str, Any]) -> None:
        self.node, self.spec = node, spec
        self.agent: Agent = lab.agent("node-1")

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.spec["containers"]
        return dict(container)

    def start(self) -> None:
        for container in self.spec["initContainers"]:
            done = self.node.run(self.spec, container)
            assert done.returncode == 0, done.stderr
        self.agent._process = self.node.start(self.spec, self.container, log=self.agent.log)
        self.agent.wait_ready()

    def probe(self, name: str) -> int:
        """What kubelet would be answered; 0 if nobody answers."""
        asked = self.container[name]["httpGet"]

        def ask() -> int:
            connection = http.client.HTTPConnection(asked["host"], asked["port"], timeout=2)
            try:
                connection.request("GET", asked["path"])
                return connection.getresponse().status
            except OSError:
                return 0
            finally:
                connection.close()

        return self.agent.place.inside(ask)

    def exec(self, *arguments: str) -> Any:
        """`kubectl exec`, more or less: the same container with another command."""
        container = {**self.container, "args": list(arguments)}
        return self.node.run(self.spec, container)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name="timagepod", agents=False) as lab:
        route = ["ip", "route", "add", "unreachable", "10.96.0.0/16"]
        lab.pod("client-1").run(route, check=True)  # an unserved VIP fails at once
        yield lab


@pytest.fixture(scope="module")
def client(lab: Lab) -> Iterator[Remote]:
    with Remote(lab.pod("client-1")) as client:
        yield client


def state(lab: Lab, *pods: str) -> dict[str, Any]:
    """Service web, with these pods as endpoints."""
    gone = endpoints.EndpointState(present=False)
    states = dict.fromkeys(WEB - set(pods), gone)
    return endpoints.render_state(lab.blueprint, [echo_service("web", VIP[0])], states)


@pytest.fixture
def server(lab: Lab) -> Iterator[PlacedApiServer]:
    server = PlacedApiServer(lab.node("node-2"), lab.directory)
    server.start(state(lab, *WEB))
    yield server
    server.kill()


@pytest.fixture
def node(lab: Lab, rootfs: Path, tmp_path: Path) -> Node:
    """node-1: its own cgroup for the host's root, its own directory of the bpffs for the host's."""
    agent = lab.agent("node-1")
    agent.bpf_root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("config", "account", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "xtables.lock").touch()
    (tmp_path / "account" / "token").write_text("of-the-pod")
    (tmp_path / "account" / "ca.crt").write_bytes(Authority(tmp_path / "ca").file.read_bytes())
    return Node(
        place=agent.place,
        rootfs=rootfs,
        work=tmp_path / "work",
        directories={
            "config": tmp_path / "config",
            "bpffs": agent.bpf_root,
            "cgroup": agent.node_cgroup,
            "netns": Path("/run/netns"),
            "reserved-ports": RESERVED_PORTS,
            "accept-local": Path("/proc/sys/net/ipv4/conf/lo/accept_local"),
            "xtables-lock": tmp_path / "xtables.lock",
        },
        service_account=tmp_path / "account",
        environment={"PATH": "/opt/vipbee/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )


@pytest.fixture
def make_pod(lab: Lab, node: Node, server: PlacedApiServer) -> Iterator[Callable[..., Pod]]:
    """A pod of the chart with these values, not started; at the end nothing is left of any."""

    def make(**values: Any) -> Pod:
        given = {"apiServers": [server.url], "image": {"repository": "registry.example/vipbee"}}
        rendered = render_manifests.render({**given, **values})
        objects = {name: yaml.safe_load(text) for name, text in rendered.items()}
        for name, text in objects["configmap"]["data"].items():
            (node.directories["config"] / name).write_text(text)
        return Pod(lab, node, objects["daemonset"]["spec"]["template"]["spec"])

    try:
        yield make
    finally:
        lab.agent("node-1").kill()
        cleaned = node.run(*cleanup_container())
        assert cleaned.returncode == 0, cleaned.stderr


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    """Ready. The chart with what an operator must give, and nothing else."""
    pod = make_pod()
    pod.start()
    return pod


@pytest.fixture
def kube_proxy_rules(lab: Lab) -> Iterator[None]:
    """What a kube-proxy left on node-1: in iptables' older backend for IPv4, nftables for IPv6."""
    node = lab.node("node-1")
    v4 = rules.kube_proxy_iptables(4)
    node.run(["iptables-legacy-restore", "--noflush"], input=v4, check=True)
    node.run(["nft", "-f", "-"], input=rules.kube_proxy_nftables(6), check=True)
    yield
    node.run(["nft", "flush", "ruleset"], check=True)
    for table in ("nat", "filter", "mangle"):
        node.run(["iptables-legacy", "-t", table, "-F"], check=True)
        node.run(["iptables-legacy", "-t", table, "-X"], check=True)


def cleanup_container() -> tuple[dict[str, Any], dict[str, Any]]:
    """Pod and container of deploy/kubernetes/cleanup.yaml that removes everything."""
    manifest = render_manifests.DEPLOY / "kubernetes" / "cleanup.yaml"
    spec = yaml.safe_load(manifest.read_text())["spec"]["template"]["spec"]
    (container,) = [c for c in spec["initContainers"] if c["name"] == "cleanup"]
    return spec, container


def test_pod_becomes_ready_and_serves(pod: Pod, client: Remote) -> None:
    assert {client.who(VIP) for _ in range(20)} == WEB
    assert {pod.probe(name) for name in pod.container if name.endswith("Probe")} == {200}


def test_forwarding_outlives_the_pod_and_the_next_one_adopts_it(
    pod: Pod, client: Remote, lab: Lab, server: PlacedApiServer
) -> None:
    """R130: the pins are the node's, not the pod's."""
    pod.agent.kill()
    served = {client.who(VIP) for _ in range(20)}
    server.publish(state(lab, "web-1"))
    pod.start()

    assert served == WEB
    assert {client.who(VIP) for _ in range(20)} == {"web-1"}


def test_sockets_in_pods_are_released(
    pod: Pod, client: Remote, lab: Lab, server: PlacedApiServer
) -> None:
    """R111: SYS_ADMIN, and the mount of /run/netns, are enough to reach other pods' sockets."""
    udp = client.udp()
    udp.connect(VIP)
    gone = udp.ask()
    (left,) = WEB - {gone}

    server.publish(state(lab, left))
    with pytest.raises(ConnectionAbortedError):
        udp.recv()
    udp.connect(VIP)

    assert udp.ask() == left
    udp.close()


def test_check_in_the_pod_finds_everything_that_is_needed(pod: Pod) -> None:
    report = json.loads(
        pod.exec("check", "-o", "json", "--cgroup-root", "/run/vipbee/cgroup").stdout
    )
    findings = {f["what"]: f["result"] for f in report["findings"]}

    assert report["usable"] is True
    assert findings["capabilities"] == "ok"
    assert findings["bpffs"] == "ok"
    assert "entering pods' namespaces" not in findings  # named only if it cannot


def test_node_ports_are_reserved_on_the_node(pod: Pod) -> None:
    """D107: of all sysctls the pod may write this one."""
    sysctls = pod.node.place.run(["cat", str(RESERVED_PORTS)], check=True).stdout.strip()
    pod.agent.kill()
    cleaned = pod.node.run(*cleanup_container())

    assert sysctls == "30000-32767"
    assert cleaned.returncode == 0, cleaned.stderr
    assert not pod.node.place.run(["cat", str(RESERVED_PORTS)], check=True).stdout.strip()


def test_status_in_the_pod_says_that_it_runs(pod: Pod) -> None:
    status = json.loads(pod.exec("status", "-o", "json").stdout)

    assert status["running"] is True
    assert status["problems"] == []


def test_pod_refuses_a_node_without_bpffs(pod: Pod, tmp_path: Path) -> None:
    """F50: pins in a bpffs that the agent mounted for itself would go with the pod."""
    (container,) = pod.spec["initContainers"]
    (tmp_path / "plain").mkdir()
    node = Node(
        pod.node.place,
        pod.node.rootfs,
        pod.node.work,
        {**pod.node.directories, "bpffs": tmp_path / "plain"},
        pod.node.service_account,
        pod.node.environment,
    )

    refused = node.run(pod.spec, container)

    assert refused.returncode == 1
    assert "no bpffs is mounted on /sys/fs/bpf of this node" in refused.stderr


def test_pod_refuses_beside_rules_of_kube_proxy(
    make_pod: Callable[..., Pod], kube_proxy_rules: None
) -> None:
    with pytest.raises(LabError, match="start the agent with --takeover"):
        make_pod().start()


def test_pod_takes_over(
    make_pod: Callable[..., Pod], client: Remote, lab: Lab, kube_proxy_rules: None
) -> None:
    """The rights and the lock that `takeover: true` brings are enough for both."""
    node = lab.node("node-1")

    def left() -> str:
        legacy = node.run(["iptables-legacy-save"], check=True).stdout
        return legacy + node.run(["nft", "list", "ruleset"], check=True).stdout

    before = left()
    make_pod(takeover=True).start()
    eventually(lambda: "KUBE-SVC" not in left() and "kube-proxy" not in left(), within_s=20)

    assert "KUBE-SVC" in before
    assert "table ip6 kube-proxy" in before
    assert client.who(VIP) in WEB


def test_cleanup_leaves_nothing(pod: Pod, client: Remote) -> None:
    refused = pod.node.run(*cleanup_container())
    pod.agent.kill()
    cleaned = pod.node.run(*cleanup_container())

    assert refused.returncode == 3  # the agent runs
    assert cleaned.returncode == 0, cleaned.stderr
    assert client.who(VIP) == "EHOSTUNREACH"
