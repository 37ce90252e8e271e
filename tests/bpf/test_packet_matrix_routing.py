# SPDX-License-Identifier: Apache-2.0
"""D157: rules, several paths, answers by another way: the kernel's routing is asked, and obeyed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import PORTS, REMOTE, V4, V6, Addresses, dialled
from tests.support.packet_model.model import Hook
from tests.support.packet_model.wire import TCP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind


@contextlib.contextmanager
def routed(family: Addresses, *lines: str) -> Iterator[None]:
    """More routes and rules, in the bench's namespace, until the end of the block."""
    flag = f"-{family.family}"
    try:
        for line in lines:
            subprocess.run(["ip", flag, *line.split()], check=True)
        yield
    finally:
        for line in reversed(lines):
            undo = line.replace(" add ", " del ").split()
            subprocess.run(["ip", flag, *undo], check=True)


def second_router(family: Addresses) -> str:
    return family.second_node + ("fe" if family is V6 else "00")


def test_d157_policy_routing_is_followed(bench: Bench, family: Addresses, protocol: int) -> None:
    """D157: a rule sends this client's backend out by the other interface, with its address."""
    world, bits = bench.model.world, 32 if family is V4 else 128
    remote = f"{family.remotes[0]}/{bits}"
    world.routes.append((packed(family.remotes[0]), bits, bench.ifindexes["up1"]))
    with routed(
        family,
        f"route add {remote} via {second_router(family)} dev up1 table 157",
        f"rule add to {remote} lookup 157 priority 157",
    ):
        talk = outside(bench, family, REMOTE, protocol=protocol)
        talk.establish()

        assert talk.shown_client.address == packed(family.second_node)


def test_d157_each_path_of_several_has_its_source(bench: Bench, family: Addresses) -> None:
    """D157: ECMP: the hash chooses; a connection keeps its source, its answer may come in by
    either interface."""
    bits = 32 if family is V4 else 128
    to = dialled(family, REMOTE, FrontendKind.LOAD_BALANCER, TCP)
    sources, firsts = set(), []
    with routed(
        family,
        f"route add {family.remotes[0]}/{bits} nexthop via {family.router} dev up0 "
        f"nexthop via {second_router(family)} dev up1",
    ):
        for number in range(32):
            client = Endpoint(packed(family.client)[:-1] + bytes([64 + number]), 40000)
            frame = Segment(client, to).frame()
            seen = [parse(bench.run(Hook.UPLINK_IN, "up0", frame).frame) for _ in range(3)]
            assert all(isinstance(packet, Packet) for packet in seen)
            shown = {packet.client for packet in seen if isinstance(packet, Packet)}
            assert len(shown) == 1
            firsts.append((client, *shown))
            sources |= {source.address for source in shown}
        for client, source in firsts:
            backend = Endpoint(packed(family.remotes[0]), PORTS[TCP][1])
            answer = Segment(backend, source, TCP, "SA", 5000, 1001).frame()
            for device in ("up0", "up1"):
                restored = parse(bench.run(Hook.UPLINK_IN, device, answer).frame)
                assert isinstance(restored, Packet)
                assert (restored.client, restored.dialled) == (to, client)

    assert sources == {packed(family.node), packed(family.second_node)}
