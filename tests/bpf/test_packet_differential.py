# SPDX-License-Identifier: Apache-2.0
"""The shipped programs beside the model: mutated packets, and conversations in any order.

Every packet goes through both; verdict, bytes and reason counters must be among what the
rules accept. Rows that no packet test names stand in `rows.NOT_YET` with the reason.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.support.packet_bench import Bench
from tests.support.packet_model.corpus import Base, corpus, established
from tests.support.packet_model.dialogue import Dialogue, from_node, from_pod, outside
from tests.support.packet_model.generate import PAYLOAD, Segment, mutated, truncations
from tests.support.packet_model.invariants import no_tuple_is_shared
from tests.support.packet_model.lab import (
    ANY,
    BY_FAMILY,
    HERE,
    HERE_TWIN,
    HOST,
    REMOTE,
    SELF,
    STICKY,
    TWIN,
    Case,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import DisagreementError
from tests.support.packet_model.rows import NOT_YET, ROWS, named_in
from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import TCP, UDP
from vipbee.abi import FrontendKind

IN_CI = "CI" in os.environ
PACKETS = int(os.environ.get("VIPBEE_FUZZ_PACKETS", "1000000" if IN_CI else "200000"))
SEED = int(os.environ["VIPBEE_FUZZ_SEED"])
SHARDS = 4
"""Parts of the run, so that workers beside each other share it."""
ROUND = 5_000
"""Packets between two comparisons of the tables: done before anything of them can expire."""


def test_every_row_is_named_by_a_test_or_explained() -> None:
    """The list of what is missing is printed, and is neither too short nor too long."""
    for row, reason in NOT_YET:
        print(f"{row}: {reason}")
    here = Path(__file__).parent
    tests = [file for file in here.glob("test_packet_matrix_*.py") if file != Path(__file__)]

    missing = set(ROWS) - named_in(tests) - {int(row[1:]) for row, _ in NOT_YET}

    assert not missing, f"rows without test or reason: {sorted(missing)}"


def tables_differ(bench: Bench) -> str | None:
    """Connections the C keeps that the model does not know, and the other way round."""
    for zone in Zone:
        kept = set(bench.tables.connections(zone))
        flows = bench.model.tracker.forward.values()
        known = {(f.protocol, f.client, f.frontend) for f in flows if f.zone is zone}
        if kept - known:
            return f"{zone}: kept without reason: {sorted(map(repr, kept - known))[:3]}"
        if known - kept:
            return f"{zone}: not kept: {sorted(map(repr, known - kept))[:3]}"
    return None


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutated_packets_meet_the_rules(
    bench: Bench, shard: int, record_property: Callable[[str, object], None]
) -> None:
    """D1-D31, D57, D58, D145, D146 and everything else a stranger can send; seed printed."""
    print(f"VIPBEE_FUZZ_SEED={SEED} VIPBEE_FUZZ_PACKETS={PACKETS}, shard {shard} of {SHARDS}")
    rng = random.Random(f"{SEED} {shard}")
    outcomes: Counter[str] = Counter()
    left = PACKETS // SHARDS

    while left > 0:
        bench.reset()
        ran = min(ROUND, left)
        outcomes += send_mutated(bench, corpus(established(bench)), ran, rng)
        left -= ran
        assert tables_differ(bench) is None

    record_property("mutated packets", outcomes.total())
    print(outcomes)


def send_mutated(
    bench: Bench, bases: Sequence[Base], count: int, rng: random.Random
) -> Counter[str]:
    """So many that the kernel took; which rules they fell under."""
    outcomes: Counter[str] = Counter()
    while outcomes.total() < count:
        base = rng.choice(bases)
        frame = mutated(base.frame, rng) if rng.random() < 0.85 else base.frame
        hook, device = base.hook, base.device
        if rng.random() < 0.1:
            hook, device = rng.choice(list(Hook)), rng.choice(list(bench.ifindexes))
        try:
            outcomes[bench.send(hook, device, frame).rule] += 1
        except OSError as error:
            if error.errno != errno.EINVAL:  # no program sees less than an IP header
                raise
    return outcomes


def test_every_prefix_of_every_packet_meets_the_rules(bench: Bench) -> None:
    """D1-D7, D16: cut anywhere, nothing is translated, nothing is kept."""
    for base in corpus(established(bench)):
        for cut in truncations(base.frame):
            try:
                bench.send(base.hook, base.device, cut)
            except DisagreementError as error:
                pytest.fail(f"{base.name}, {len(cut)} of {len(base.frame)} bytes: {error}")
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel refuses less than an IP header
                    raise

    assert tables_differ(bench) is None


LONG = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=IN_CI,
    suppress_health_check=list(HealthCheck),
)


class Conversations(RuleBasedStateMachine):
    """Clients, backends, time, Service changes and evictions in any order."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        bench.reset()
        self.bench = bench
        self.talks: list[Dialogue] = []

    @rule(
        family=st.sampled_from([4, 6]),
        case=st.sampled_from([ANY, HERE, REMOTE, TWIN, HERE_TWIN, SELF, STICKY, HOST]),
        kind=st.sampled_from([FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER]),
        protocol=st.sampled_from([TCP, UDP]),
        port=st.integers(40000, 40002),
        start=st.sampled_from([outside, from_pod, from_node]),
    )
    def begins(
        self,
        family: int,
        case: Case,
        kind: FrontendKind,
        protocol: int,
        port: int,
        start: Callable[..., Dialogue],
    ) -> None:
        self.begins_by(start, family, case, kind, protocol, port)

    def begins_by(
        self,
        start: Callable[..., Dialogue],
        family: int,
        case: Case,
        kind: FrontendKind,
        protocol: int,
        port: int,
    ) -> None:
        talk = start(self.bench, BY_FAMILY[family], case, kind, protocol, port)
        talk.say()
        self.talks.append(talk)

    @rule(data=st.data(), flags=st.sampled_from(["A", "PA", "FA", "R", "S"]))
    def client_goes_on(self, data: st.DataObject, flags: str) -> None:
        if self.talks:
            talk = data.draw(st.sampled_from(self.talks))
            talk.say(flags, sequence=1001, acknowledgement=5001, payload=PAYLOAD)

    @rule(data=st.data(), flags=st.sampled_from(["SA", "A", "FA", "RA"]))
    def backend_answers(self, data: st.DataObject, flags: str) -> None:
        if self.talks:
            talk = data.draw(st.sampled_from(self.talks))
            if talk.seen is not None:
                back = Segment(talk.backend, talk.shown_client, talk.protocol, flags, 5001, 1001)
                for hook, device in zip(Hook, ("up0", "up0", "pod0", "pod0"), strict=True):
                    self.bench.send(hook, device, back.frame())

    @rule(data=st.data())
    def endpoint_goes(self, data: st.DataObject) -> None:
        if self.talks:
            talk, gone = data.draw(st.tuples(st.sampled_from(self.talks), st.booleans()))
            # what was seen is the kernel's choice: nothing may be drawn that depends on it
            if talk.seen is not None:
                self.bench.remove_backend(talk.backend, gone=gone)

    @rule(seconds=st.sampled_from([2, 12, 122, 242, 7442]))
    def time_passes(self, seconds: int) -> None:
        self.bench.wait(seconds)

    @invariant()
    def no_two_live_flows_share_a_tuple(self) -> None:
        assert no_tuple_is_shared(self.bench.model.tracker, self.bench.now) is None


def test_conversations_in_any_order_meet_the_rules(bench: Bench) -> None:
    """R33-R35, R110-R114, R124, D68-D98, D102: one backend for each flow, no shared tuple."""
    run_state_machine_as_test(lambda: Conversations(bench), settings=LONG)
