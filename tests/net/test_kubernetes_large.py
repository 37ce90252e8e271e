# SPDX-License-Identifier: Apache-2.0
"""A Service with 50,000 endpoints comes with one list: F22, F65, R132.

How fast, and with how much memory: bench/scale.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import numpy as np
import pytest

from tests.support.apiserver.placed import PlacedApiServer
from tests.support.eventually import eventually
from tests.support.manifests import Manifest, echo_service, echo_slice
from tests.support.remote import Remote
from vipbee.abi import LAYOUT_VERSION, MapName
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.pins import PinDirectory
from vipbee.lab import Agent, Lab, endpoints, parse_topology
from vipbee.lab.agent import HEALTHZ_PORT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
      - {name: web-1, app: web, servers: [echo]}
      - {name: client-1}
"""
VIP = ("10.96.0.10", 7000)
SLICES, ENDPOINTS_EACH = 500, 100
FIRST = IPv4Address("10.150.0.0")
PROBE_TIMEOUT_S = 5.0  # of the DaemonSet in deploy/; measured: 0.6 to 0.8 s


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        yield lab


def big_slices() -> list[Manifest]:
    slices = []
    for number in range(SLICES):
        first = FIRST + number * ENDPOINTS_EACH
        item = echo_slice("big", *(str(first + i) for i in range(ENDPOINTS_EACH)))
        item["metadata"]["name"] = f"big-{number}"
        slices.append(item)
    return slices


class Probing:
    """Asks /livez again and again, as a kubelet does, until the block ends."""

    def __init__(self, agent: Agent) -> None:
        self.took_s: list[float] = []
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: agent.place.inside(self._probe))

    def __enter__(self) -> Probing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _probe(self) -> None:
        while not self._stop.wait(0.02):
            started = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", HEALTHZ_PORT, timeout=10)
            try:
                connection.request("GET", "/livez")
                if connection.getresponse().status != 200:
                    self.refused.append("not 200")
            except OSError as error:
                self.refused.append(repr(error))
            finally:
                connection.close()
            self.took_s.append(time.monotonic() - started)


def programmed_backends(agent: Agent) -> int:
    with KernelTables(PinDirectory(agent.bpf_root / LAYOUT_VERSION), load_layouts()) as tables:
        return int(np.count_nonzero(tables.read_array(MapName.BACKENDS)["flags"]))


def test_probes_and_watches_are_served_while_a_large_list_is_taken_in(lab: Lab) -> None:
    """F22, F65: liveness is answered in time, and what is written next is in force at once."""
    server = PlacedApiServer(lab.node("node-1"), lab.directory)
    agent = lab.agent("node-1")
    web, big = echo_service("web", VIP[0]), echo_service("big", "10.96.0.30", selector={})
    small = endpoints.render_state(lab.blueprint, [web], {})
    large = endpoints.render_state(lab.blueprint, [web, big], {})
    large["endpoints"] += big_slices()
    without_web = {**large, "endpoints": big_slices()}
    try:
        server.start(small)
        agent.kubeconfig = server.kubeconfig()
        lab.start_agents(("--no-packet-lb",))
        with Remote(lab.pod("client-1")) as client:
            server.kill()
            with Probing(agent) as probing:
                server.start(large)  # with another past: everything is listed anew
                eventually(
                    lambda: programmed_backends(agent) > 2 * SLICES * ENDPOINTS_EACH,
                    within_s=60,
                    what="TCP and UDP backends of all endpoints",
                )
                server.publish(without_web)
                written = time.monotonic()
                eventually(lambda: client.who(VIP) == "ECONNREFUSED", within_s=10)
                late_s = time.monotonic() - written
    finally:
        agent.kill()
        agent.vipbee(["cleanup"])
        server.close()

    print(
        f"{len(probing.took_s)} probes, slowest {max(probing.took_s):.2f} s, change {late_s:.2f} s"
    )
    assert probing.refused == []
    assert max(probing.took_s) < PROBE_TIMEOUT_S
