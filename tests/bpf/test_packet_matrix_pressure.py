# SPDX-License-Identifier: Apache-2.0
"""D116-D122: floods against small tables. What is established stays, whatever it costs others.

D119 (sizes against the number of CPUs) and D123 (a full frontend table) are decided by the
agent and tested there. D121 needs an interrupt inside a map update: a copy of the datapath
whose updates fail stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import Segment, fragments
from tests.support.packet_model.lab import HERE, REMOTE, STICKY, V4, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import ETH_LENGTH, TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from tests.support.weakened import compile_weakened
from vipbee.abi import Reason

SMALL = 4096
FLOOD = 3 * SMALL
ROOM = 512


@pytest.fixture(scope="module")
def small_bench(as_root: None) -> Iterator[Bench]:
    sizes = {
        f"{table}_{zone}": SMALL if "new" in table else ROOM
        for table in ("conntrack", "conntrack_new", "nat", "nat_new")
        for zone in ("outside", "pod")
    }
    sizes["fragments"] = SMALL
    with Bench.up(sizes=sizes, refusals_per_second=1 << 30) as up:
        yield up


@pytest.fixture
def small(small_bench: Bench) -> Bench:
    small_bench.reset()
    return small_bench


def flood(bench: Bench, talk: Dialogue, count: int = FLOOD) -> list[tuple[bytes, int]]:
    """First packets from `count` sources; the C alone sees them. Returns address and port."""
    frame = Segment(talk.client, talk.frontend, talk.protocol, payload=b"12").frame()
    at = ETH_LENGTH + (12 if len(talk.client.address) == 4 else 8)
    size = len(talk.client.address)
    device = (Hook.POD_IN, talk.from_pod) if talk.from_pod else (Hook.UPLINK_IN, "up0")
    sources = []
    for number in range(count):
        source = talk.client.address[: size - 2] + (0x1000 + number).to_bytes(2)
        port = talk.client.port + number % 7
        packet = frame[:at] + source + frame[at + size :]
        l4 = ETH_LENGTH + (20 if size == 4 else 40)
        packet = packet[:l4] + port.to_bytes(2) + packet[l4 + 2 :]
        bench.run(*device, packet)
        sources.append((source, port))
    return sources


def established(bench: Bench, family: Addresses, protocol: int, count: int = 100) -> list[Dialogue]:
    talks = [
        outside(bench, family, case, protocol=protocol, port=50000 + number)
        for number in range(count // 2)
        for case in (HERE, REMOTE)
    ]
    for talk in talks:
        talk.establish()
    return talks


def all_live(talks: list[Dialogue]) -> bool:
    """Both directions, compared with the model: same backend, same port."""
    return all(
        talk.say("A", sequence=1001, acknowledgement=5001).frame is not None
        and talk.answer("A", sequence=5001, acknowledgement=1001).frame is not None
        for talk in talks
    )


def test_d116_a_flood_of_syns_costs_no_established_connection(
    small: Bench, family: Addresses
) -> None:
    """D116"""
    talks = established(small, family, TCP)

    flood(small, outside(small, family, REMOTE))

    assert all_live(talks)


def test_d117_answered_syns_neither(small: Bench, family: Addresses) -> None:
    """D117: SYN-ACKs touch the entries of the flood, which is what kills one shared LRU."""
    talks = established(small, family, TCP)
    bait = outside(small, family, HERE)
    answer = Segment(Endpoint(packed(family.pods[1]), 8080), bait.client, flags="SA").frame()
    l4 = len(answer) - 20
    size = len(bait.client.address)

    for source, port in flood(small, bait):
        to_source = answer[: l4 - size] + source + answer[l4 : l4 + 2] + port.to_bytes(2)
        small.run(Hook.UPLINK_OUT, "up0", to_source + answer[l4 + 4 :])

    assert all_live(talks)


def test_d118_a_flood_of_datagrams_neither(small: Bench, family: Addresses) -> None:
    """D118"""
    talks = established(small, family, TCP) + established(small, family, UDP)

    flood(small, outside(small, family, REMOTE, protocol=UDP))

    assert all_live(talks)


def test_zones_a_flood_outside_costs_no_unfinished_connection_of_a_pod(
    small: Bench, family: Addresses
) -> None:
    """Issue, State: traffic from outside apart from pod traffic."""
    talks = [from_pod(small, family, REMOTE, port=50000 + number) for number in range(50)]
    for talk in talks:
        talk.say()

    flood(small, outside(small, family, REMOTE))

    for talk in talks:
        talk.establish()
    assert all_live(talks)


def test_d120_packets_of_known_connections_evict_nothing(
    small: Bench, family: Addresses, protocol: int
) -> None:
    """D120: update_elem on an existing key of a full LRU evicts up to 128 others."""
    flood(small, outside(small, family, REMOTE, protocol=protocol))
    talk = outside(small, family, HERE, protocol=protocol, port=61000)
    talk.say()
    before = {n: small.tables.size(n) for n in ("conntrack_new_outside", "nat_new_outside")}

    for _ in range(2000):
        talk.say()

    after = {n: small.tables.size(n) for n in ("conntrack_new_outside", "nat_new_outside")}
    assert after == before


def test_a_full_established_table_leaves_connections_in_the_zone_of_new_ones(
    small: Bench, family: Addresses
) -> None:
    """Issue, Zones: counted, served, retried."""
    talks = []
    for number in range(ROOM + 40):
        talk = outside(small, family, HERE, port=20000 + number)
        talk.establish()
        talks.append(talk)

    assert small.tables.size("conntrack_outside") == ROOM
    late = talks[-1]
    frame = Segment(late.client, late.frontend, flags="A", sequence=1001, acknowledgement=5001)
    observed = small.run(Hook.UPLINK_IN, "up0", frame.frame())
    assert observed.action is Action.PASS
    assert observed.reasons == {Reason.ESTABLISHED_FULL: 1}
    assert late.answer("A", sequence=5001, acknowledgement=1001).frame is not None


def test_d122_reading_the_tables_changes_nothing(small: Bench, family: Addresses) -> None:
    """D122: lookups from user space do not count as use (kernel 5.2)."""
    talks = established(small, family, TCP)
    flood(small, outside(small, family, REMOTE))
    before = small.tables.sizes()

    for zone in {talk.flow.zone for talk in talks}:
        small.tables.connections(zone)
        small.tables.reply_tuples(zone)

    assert small.tables.sizes() == before
    assert all_live(talks)


def test_a_full_affinity_table_forgets_but_serves(small: Bench, protocol: int) -> None:
    """D140: more clients than places."""
    bait = outside(small, V4, STICKY, protocol=protocol)
    flood(small, bait, 500)

    talk = outside(small, V4, STICKY, protocol=protocol, port=61000)

    assert talk.say().frame is not None


def test_d25_a_full_table_of_fragments_mixes_nothing_up(small: Bench) -> None:
    """D25: more datagrams in flight than it holds: the tails of the oldest are dropped, and
    what is translated goes to its own backend."""
    talk = outside(small, V4, HERE, protocol=UDP)
    tails = []
    for identity in range(FLOOD):
        segment = replace(
            Segment(talk.client, talk.frontend, UDP, payload=bytes(64)),
            source=replace(talk.client, port=40000 + identity % 64),
        )
        first, last, *_ = fragments(segment, 48)
        tails.append(with_identity(last, identity))
        small.run(Hook.UPLINK_IN, "up0", with_identity(first, identity))

    outcomes = [small.run(Hook.UPLINK_IN, "up0", tail) for tail in tails]

    kept = [outcome.frame for outcome in outcomes if outcome.action is not Action.DROP]
    dropped = [outcome.reasons for outcome in outcomes if outcome.action is Action.DROP]
    assert 0 < len(kept) <= SMALL
    assert all(frame[ETH_LENGTH + 16 :][:4] == packed(V4.pods[1]) for frame in kept)
    orphaned = {Reason.FRAGMENT_HELD, Reason.FRAGMENT_UNKNOWN}
    assert all(len(reasons) == 1 and {*reasons} <= orphaned for reasons in dropped)


def with_identity(frame: bytes, identity: int) -> bytes:
    at = ETH_LENGTH + 4
    return frame[:at] + identity.to_bytes(2) + frame[at + 2 :]


FAILING = {
    "forward half": ("open_connection.h", "if (bpf_map_update_elem(conntrack_map(zone, 0)"),
    "promotion": ("conntrack_halves.h", "if (bpf_map_update_elem(conntrack_map(zone, 1)"),
}


@pytest.mark.parametrize("where", FAILING)
def test_d121_an_update_that_fails_leaves_no_half(
    as_root: None, tmp_path: Path, where: str
) -> None:
    """D121: -EBUSY, -ENOMEM: counted, tried again with the next packet, nothing left behind."""
    file, text = FAILING[where]
    failing = text.replace("if (", "if (1 || ")
    weakened = compile_weakened(((file, text, failing),), tmp_path)
    with Bench.up(path=weakened) as bench:
        talk = outside(bench, V4, HERE)
        syn = Segment(talk.client, talk.frontend).frame()
        if where == "forward half":
            for _ in range(2):
                observed = bench.run(Hook.UPLINK_IN, "up0", syn)
                assert observed.reasons == {Reason.FLOW_NOT_STORED: 1}
            assert not any(bench.tables.sizes().values())
            return
        talk.establish()
        talk.say("A", sequence=1001, acknowledgement=5001)

        assert bench.counted(Reason.ESTABLISHED_FULL) == 2
        assert bench.tables.size("nat_outside") == bench.tables.size("conntrack_outside") == 0
        assert talk.answer("A", sequence=5001, acknowledgement=1001).frame is not None
