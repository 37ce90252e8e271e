# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of load and update, under a stream of connects: F38–F40, R32, R128."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import traceback

import pytest

from tests.support.hooked import Hooked
from tests.support.servers import TCP, UDP
from tests.support.stacks import IPV4, NODE_ADDRESSES, Stack, cluster_ip, node_port, service_port
from tests.support.stream import connecting
from vipbee.core.desired import Desired
from vipbee.core.dump import dump
from vipbee.datapath import pins
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.loader import LoadRequest, load
from vipbee.datapath.memory import MemoryTables
from vipbee.datapath.programs import SOCKET_PROGRAMS
from vipbee.model import ServicePort

ROUNDS = 30
LONGEST_S = 0.15


def state(stack: Stack, turn: int) -> list[ServicePort]:
    """VIP 10 always has a live endpoint, never twice the same; other Services come and go."""
    start = turn % 6
    some = stack.backends[start : start + 1 + turn % 3]
    ports = [
        service_port(
            "web",
            (cluster_ip(stack.vip(10), 80, TCP), node_port(stack.family, 30080, TCP)),
            some,
            family=stack.family,
            affinity_timeout_s=turn % 2 * 60,
        )
    ]
    for number in range(20, 60):
        if (number + turn) % 3:
            backends = stack.backends[turn % 4 : 2 + number % 5]
            frontend = cluster_ip(stack.vip(number), 53, UDP)
            ports.append(service_port(f"dns{number}", frontend, backends, family=stack.family))
    return ports


def agent(hooked: Hooked, request: LoadRequest, stack: Stack, turn: int) -> None:
    """What an agent does at start and then at each change, until it is killed."""
    pins.prepare_root(request.bpf_root)
    with pins.exclusive(request.bpf_root, wait_s=5):
        loaded = load(request)
        with KernelTables(loaded.directory, hooked.layouts) as tables:
            desired = Desired(hooked.layouts, tables.capacity)
            tables.renew_address_filter()
            desired.adopt(tables.snapshot())
            while True:
                ports = {p.key.service: (p,) for p in state(stack, turn)}
                for operation in desired.full(ports, NODE_ADDRESSES):
                    tables.apply(operation)
                desired.reclaim()
                turn += 1


def killed_agent(hooked: Hooked, request: LoadRequest, turn: int, delay_s: float) -> None:
    pid = os.fork()
    if not pid:
        try:
            agent(hooked, request, IPV4, turn)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    time.sleep(delay_s)  # the moment of the kill, drawn at random
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the agent ended by itself"


def expected_dump(hooked: Hooked, ports: list[ServicePort]) -> str:
    assert hooked.tables is not None
    memory = MemoryTables(hooked.layouts, hooked.tables.capacity)
    desired = Desired(hooked.layouts, hooked.tables.capacity)
    for operation in desired.full({p.key.service: (p,) for p in ports}, NODE_ADDRESSES):
        memory.apply(operation)
    return dump(memory.snapshot())


@pytest.mark.parametrize("seed", [int(os.environ.get("VIPBEE_SEED", "20240817"))])
def test_no_connect_fails_while_agents_are_killed(namespace: Hooked, seed: int) -> None:
    """F39, R32, R128: 30 agents killed within 150 ms of their start, each from where the
    last one stopped; half of them replace every program. VIPBEE_SEED repeats a run."""
    hooked, random_ = namespace, random.Random(seed)
    hooked.program_only(*state(IPV4, 0), node_addresses=NODE_ADDRESSES)

    with (
        connecting(hooked, IPV4, IPV4.vip(10), 80) as cluster_ip_tally,
        connecting(hooked, IPV4, IPV4.node, 30080) as node_port_tally,
    ):
        for turn in range(ROUNDS):
            request = hooked.request(bind_protection=bool(random_.getrandbits(1)))
            killed_agent(hooked, request, turn, random_.uniform(0, LONGEST_S))
            # the Service is served whatever the killed one had reached
            cluster_ip_tally.wait_for(2)
        hooked.load()
        ports = state(IPV4, ROUNDS)
        assert hooked.desired is not None
        assert hooked.tables is not None
        full = hooked.desired.full({p.key.service: (p,) for p in ports}, NODE_ADDRESSES)
        for operation in full:
            hooked.tables.apply(operation)
        hooked.audit()

    assert cluster_ip_tally.failures == []
    assert node_port_tally.failures == []
    assert hooked.audit() == 0
    assert dump(hooked.tables.snapshot()) == expected_dump(hooked, ports)
    assert set(hooked.directory.names("links")) == set(SOCKET_PROGRAMS)
    assert not list(hooked.bpf_root.rglob("new-*"))


def test_first_start_killed_at_any_moment_can_be_done_again(as_root: None) -> None:
    """F39: nothing is there or everything is; the lock went with the process."""
    random_ = random.Random(7)
    with Hooked.up(loaded=False) as hooked:
        request = hooked.request()
        for _ in range(8):
            killed_agent(hooked, request, 0, random_.uniform(0.02, 0.12))
            found = {p.name for p in hooked.bpf_root.iterdir()} if hooked.bpf_root.exists() else ()
            complete = hooked.directory.path.is_dir()
            if complete:
                assert set(hooked.directory.names("links")) == set(SOCKET_PROGRAMS)
                pins.remove_everything(hooked.bpf_root)
            assert found <= {"new-v1", hooked.directory.path.name} if found else True

        loaded = hooked.load()

        assert set(loaded.replaced) == set(SOCKET_PROGRAMS) or loaded.adopted
        assert set(hooked.directory.names("links")) == set(SOCKET_PROGRAMS)
