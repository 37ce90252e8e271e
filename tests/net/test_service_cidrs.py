# SPDX-License-Identifier: Apache-2.0
"""What an agent knows of where ClusterIPs come from reaches the packet programs (R38).

What these do with it: tests/bpf/test_packet_unallocated.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from ipaddress import ip_network

import numpy as np
import pytest

from tests.support.eventually import eventually
from tests.support.manifests import echo_service
from vipbee.abi import LAYOUT_VERSION, MapName
from vipbee.core.service_cidrs import Cidr, render_cidrs
from vipbee.datapath import syscall
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.pins import PinDirectory
from vipbee.lab import Lab, parse_topology

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="labs need root")

TOPOLOGY = """
nodes:
  - name: node-1
    pods:
      - {name: web-0, app: web, servers: [echo]}
"""
LAYOUTS = load_layouts()
OPTION, OBJECT = ip_network("10.96.0.0/16"), ip_network("fd00:10:96::/112")
SERVICE_CIDR = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "ServiceCIDR",
    "metadata": {"name": "kubernetes"},
    "spec": {"cidrs": [str(OBJECT)]},
}


@pytest.fixture
def lab(lab_name: str) -> Iterator[Lab]:
    with Lab.up(parse_topology(TOPOLOGY), name=lab_name, agents=False) as lab:
        lab.services[:] = [echo_service("web", "10.96.0.10")]
        lab.publish()
        yield lab


def known(lab: Lab) -> bytes:
    pins = PinDirectory(lab.agent("node-1").bpf_root / LAYOUT_VERSION)
    value = np.zeros(1, LAYOUTS["service_cidrs"])
    fd = pins.get("maps", MapName.SERVICE_CIDRS)
    assert fd is not None
    syscall.map_lookup(fd, np.zeros(1, np.uint32), value)
    os.close(fd)
    return value.tobytes()


def rendered(*cidrs: Cidr) -> bytes:
    return render_cidrs(LAYOUTS, cidrs).tobytes()


def test_option_and_objects_reach_the_table_and_follow_changes(lab: Lab) -> None:
    lab.start_agents(("--packet-lb", f"--service-cluster-ip-range={OPTION}"))
    assert known(lab) == rendered(OPTION)

    directory = lab.directory / "states"
    directory.mkdir()
    (directory / "services.yaml").write_text(lab.state_file.read_text())
    (directory / "cidrs.json").write_text(json.dumps(SERVICE_CIDR))
    agent = lab.agent("node-1")
    agent.kill()
    agent.state_file = directory
    agent.start()
    agent.wait_ready()
    assert known(lab) == rendered(OPTION, OBJECT)

    (directory / "cidrs.json").unlink()
    eventually(lambda: known(lab) == rendered(OPTION), within_s=5)
