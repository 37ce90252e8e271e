# SPDX-License-Identifier: Apache-2.0
"""How much of a port range new flows to one backend can use, and how often one fails.

The worst case: all clients have the same source port, so that after the first nobody can
keep it and everybody is given one of the range.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.packets.driver import FRAME_SIZE, Drive, Driver
from tests.support.packet_bench import Bench
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import REMOTE, V4
from tests.support.packet_model.wire import TCP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import Reason

FIRST_PORT = 33_000
_CLIENTS = 0x64400000  # 100.64.0.0: by default route, like everybody outside
_CHUNK = 50


@dataclass(frozen=True, slots=True)
class Quality:
    """Flows, of a range of `ports`."""

    ports: int
    before_refusal: int  # made, when the first was refused
    failures_until_75: int
    failures_at_75: int
    failures_until_90: int
    failures_at_90: int
    tried: int  # at each of the two levels


def range_of(ports: int) -> dict[str, int]:
    """Configuration of a Bench for `measure_quality`."""
    return {"snat_port_first": FIRST_PORT, "snat_port_last": FIRST_PORT + ports - 1}


def measure_quality(bench: Bench, driver: Driver, ports: int) -> Quality:
    """The bench has `range_of(ports)`, and room for twice as many unfinished connections."""
    filling = _Filling(bench, driver)
    tried = ports // 100
    until_75 = filling.fill_to(int(ports * 0.75))
    at_75 = filling.attempt(tried)
    until_90 = filling.fill_to(int(ports * 0.9))
    at_90 = filling.attempt(tried)
    while not filling.before_refusal:
        filling.attempt(_CHUNK)
    return Quality(ports, filling.before_refusal, until_75, at_75, until_90, at_90, tried)


class _Filling:
    def __init__(self, bench: Bench, driver: Driver) -> None:
        self._bench = bench
        self._driver = driver
        self._attempts = 0
        self._made = 0
        self.before_refusal = 0  # 0: none was refused yet
        client, node = Endpoint(packed(V4.client), FIRST_PORT), packed(V4.node)
        segment = Segment(client, Endpoint(node, REMOTE.node_port), TCP, payload=bytes(FRAME_SIZE))
        self._frame = segment.frame()

    def fill_to(self, flows: int) -> int:
        """Returns how many attempts failed."""
        failed = 0
        while self._made < flows:
            failed += self.attempt(min(_CHUNK, flows - self._made))
        return failed

    def attempt(self, flows: int) -> int:
        """SYNs of so many new clients; returns how many were refused."""
        drive = Drive(
            self._frame,
            flows=1 << 31,
            first=self._attempts,
            client=_CLIENTS,
            port=FIRST_PORT,
            server=int.from_bytes(packed(V4.node)),
        )
        before = refused(self._bench)
        self._driver.run(
            self._bench.datapath.program_fd("vipbee_uplink_in"),
            drive,
            ifindex=self._bench.ifindexes["up0"],
            repeat=flows,
        )
        failed = refused(self._bench) - before
        self._attempts += flows
        if failed and not self.before_refusal:
            self.before_refusal = self._made  # of the chunk none is counted
        self._made += flows - failed
        return failed


def refused(bench: Bench) -> int:
    """Flows refused so far for want of a port."""
    return bench.counted(Reason.SNAT_EXHAUSTED)
