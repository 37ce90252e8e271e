# SPDX-License-Identifier: Apache-2.0
"""One hooked namespace for each module, and each test in IPv4 and IPv6."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

import pytest

from tests.support.hooked import Hooked
from tests.support.one_service import program
from tests.support.packet_bench import Bench
from tests.support.packet_model.lab import BY_FAMILY, Addresses
from tests.support.packet_model.wire import TCP, UDP
from tests.support.stacks import IPV4, IPV6, MAPPED, NODE_ADDRESSES, Stack
from vipbee.datapath.features import probe_features


@pytest.fixture(scope="session")
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: loads BPF programs into a cgroup of its own")


@pytest.fixture(scope="module")
def namespace(as_root: None) -> Iterator[Hooked]:
    with Hooked.up() as up:
        up.serve()
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


@pytest.fixture(scope="module", params=[True, False], ids=["storage", "lru"])
def namespace_by_storage(request: pytest.FixtureRequest, as_root: None) -> Iterator[Hooked]:
    """With socket storage, and as on a kernel without it."""
    features = probe_features()
    if not request.param:
        features = dataclasses.replace(
            features, socket_storage=False, stale_iterator=False, release_iterator=False
        )
    with Hooked.up(features=features) as up:
        up.serve()
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


@pytest.fixture
def fresh(as_root: None) -> Iterator[Hooked]:
    """Loaded once, with one Service in it."""
    with Hooked.up() as up:
        up.serve()
        program(up)
        yield up


@pytest.fixture
def bare(as_root: None) -> Iterator[Hooked]:
    """Nothing loaded, nobody in the cgroup."""
    with Hooked.up(loaded=False) as up:
        yield up


@pytest.fixture
def hooked(namespace: Hooked) -> Hooked:
    """Servers on every backend address, no Service, counters of new ones at zero."""
    namespace.program_only()
    return namespace


@pytest.fixture(params=[IPV4, IPV6], ids=lambda stack: stack.name)
def stack(request: pytest.FixtureRequest) -> Stack:
    """IPv4 and its IPv6 twin."""
    chosen: Stack = request.param
    return chosen


@pytest.fixture(params=[IPV4, IPV6, MAPPED], ids=lambda stack: stack.name)
def spelling(request: pytest.FixtureRequest) -> Stack:
    """The same, and IPv4 from AF_INET6 sockets."""
    chosen: Stack = request.param
    return chosen


@pytest.fixture(scope="module")
def packet_bench(as_root: None) -> Iterator[Bench]:
    with Bench.up(refusals_per_second=1 << 30) as up:
        yield up


@pytest.fixture
def bench(packet_bench: Bench) -> Bench:
    """Packet programs beside the model, the lab's Services, no connections."""
    packet_bench.reset()
    return packet_bench


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Addresses:
    """The lab's addresses: IPv4 and its IPv6 twin."""
    return BY_FAMILY[request.param]


@pytest.fixture(params=[TCP, UDP], ids=["tcp", "udp"])
def protocol(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    """One seed for all workers; CI repeats its own, so a change is judged by what it changed."""
    fresh = "3967044852" if "CI" in os.environ else str(time.time_ns() % 2**32)
    os.environ.setdefault("VIPBEE_FUZZ_SEED", fresh)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many packets met the model, and how to meet them again; shown also if all is well."""
    counts = [
        int(value)
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == "mutated packets"
    ]
    if counts:
        seed = os.environ["VIPBEE_FUZZ_SEED"]
        terminalreporter.write_line(
            f"{sum(counts):,} mutated packets, 0 disagreements; VIPBEE_FUZZ_SEED={seed}"
        )
