# SPDX-License-Identifier: Apache-2.0
"""The model itself: conversations, refusals and what must hold over any sequence."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.packet_model.dialogue import Dialogue, ModelOnly, from_pod, outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.invariants import no_tuple_is_shared, payload
from tests.support.packet_model.lab import (
    ANY,
    BY_FAMILY,
    HERE,
    HERE_TWIN,
    NOBODY,
    NOT_HERE,
    RANGED,
    REMOTE,
    SELF,
    STICKY,
    TWIN,
    V4,
    Addresses,
    Case,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action, DisagreementError, Observed
from tests.support.packet_model.wire import TCP, UDP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason


@pytest.fixture(params=[4, 6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Addresses:
    return BY_FAMILY[request.param]


@pytest.fixture(params=[TCP, UDP], ids=["tcp", "udp"])
def protocol(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.mark.parametrize("case", [HERE, REMOTE], ids=["local", "remote"])
@pytest.mark.parametrize(
    "kind",
    [FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER, FrontendKind.EXTERNAL_IP],
    ids=lambda kind: kind.label,
)
def test_what_the_client_gets_is_what_the_backend_sent(
    family: Addresses, protocol: int, case: Case, kind: FrontendKind
) -> None:
    """reverse(forward(p)) = p; `Dialogue.answer` compares with Scapy's packet."""
    talk = outside(ModelOnly(), family, case, kind, protocol)

    talk.establish()

    assert talk.flow.established
    assert (talk.shown_client.address == talk.client.address) == (case is HERE)


def test_a_pod_keeps_its_address_but_towards_itself(family: Addresses, protocol: int) -> None:
    """R55, R59"""
    sender = ModelOnly()
    other, itself = (from_pod(sender, family, case, protocol=protocol) for case in (REMOTE, SELF))

    for talk in (other, itself):
        talk.establish()

    assert other.shown_client == other.client
    assert itself.shown_client.address == packed(family.node)


@pytest.mark.parametrize(
    ("case", "action", "reason"),
    [
        (NOBODY, Action.REDIRECT, Reason.NO_ENDPOINT),
        (NOT_HERE, Action.DROP, Reason.NO_LOCAL_ENDPOINT),
    ],
    ids=["nobody", "not here"],
)
def test_an_empty_set_is_refused_or_dropped(
    family: Addresses, protocol: int, case: Case, action: Action, reason: Reason
) -> None:
    """R35, R44, R49"""
    outcome = outside(ModelOnly(), family, case, protocol=protocol).say()

    assert (outcome.action, outcome.reasons) == (action, (reason,))


def test_a_source_outside_the_ranges_is_dropped(family: Addresses, protocol: int) -> None:
    """R80, R81"""
    sender = ModelOnly()
    stranger = outside(sender, family, RANGED, protocol=protocol)
    stranger.client = Endpoint(packed(family.other_client), 4000)

    blocked = stranger.say()
    stranger.frontend = outside(sender, family, RANGED, FrontendKind.EXTERNAL_IP).frontend

    assert blocked.reasons == (Reason.SOURCE_RANGE,)
    assert outside(sender, family, RANGED, protocol=protocol).say().action is Action.REDIRECT


def test_two_vips_of_one_backend_get_two_source_ports(family: Addresses, protocol: int) -> None:
    """R124, D86"""
    sender = ModelOnly()
    for pair in ((REMOTE, TWIN), (HERE, HERE_TWIN)):
        one, two = (outside(sender, family, case, protocol=protocol) for case in pair)

        one.establish()
        two.establish()

        assert one.backend == two.backend
        assert one.shown_client.port == one.client.port
        assert two.shown_client.port != two.client.port


def test_affinity_outlives_connections_but_not_its_timeout(family: Addresses) -> None:
    """R61, R63"""
    sender = ModelOnly()
    first = outside(sender, family, STICKY)
    first.say()
    again = [outside(sender, family, STICKY, port=port) for port in range(41000, 41020)]
    for talk in again:
        talk.say()
    late = []
    for port in range(42000, 42040):
        sender.wait(101)
        late.append(outside(sender, family, STICKY, port=port))
        late[-1].say()

    assert {talk.backend for talk in again} == {first.backend}
    assert len({talk.backend for talk in late}) == 4


def test_an_observation_that_breaks_a_rule_is_named() -> None:
    """The comparison must be able to fail: wrong backend, wrong verdict, wrong counter."""
    sender = ModelOnly()
    talk = outside(sender, V4, HERE)
    frame = Segment(talk.client, talk.frontend).frame()
    wrong = [
        Observed(Action.DROP, frame),
        Observed(Action.PASS, frame),
        Observed(Action.PASS, frame.replace(packed(V4.lb(12)), packed(V4.pods[0]))),
    ]

    for observed in wrong:
        with pytest.raises(DisagreementError):
            sender.model.step(Hook.UPLINK_IN, 101, frame, sender.now, observed)
    assert not sender.model.tracker.forward


class Conversations(RuleBasedStateMachine):
    """Clients, backends, time and clock steps in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = ModelOnly()
        self.talks: list[Dialogue] = []

    @rule(
        family=st.sampled_from([4, 6]),
        case=st.sampled_from([ANY, HERE, REMOTE, TWIN, HERE_TWIN, SELF]),
        protocol=st.sampled_from([TCP, UDP]),
        port=st.integers(40000, 40003),
        pod=st.booleans(),
    )
    def begins(self, family: int, case: Case, protocol: int, port: int, pod: bool) -> None:
        start = from_pod if pod else outside
        talk = start(self.sender, BY_FAMILY[family], case, protocol=protocol, port=port)
        talk.say()
        self.talks.append(talk)

    @rule(data=st.data(), flags=st.sampled_from(["A", "PA", "FA", "R", "S"]))
    def goes_on(self, data: st.DataObject, flags: str) -> None:
        if not self.talks:
            return
        talk = data.draw(st.sampled_from(self.talks))
        segment = Segment(talk.client, talk.frontend, talk.protocol, flags=flags, payload=b"x" * 9)
        sent = parse(segment.frame())
        outcome = talk.say_frame(segment.frame())
        if outcome.frame is not None and talk.seen is not None:
            assert isinstance(sent, Packet)
            assert payload(sent) == payload(talk.seen)

    @rule(data=st.data(), flags=st.sampled_from(["SA", "A", "FA", "RA"]))
    def is_answered(self, data: st.DataObject, flags: str) -> None:
        alive = list(self.sender.model.tracker.alive(self.sender.now))
        for talk in self.talks:
            if talk.seen is not None and any(f.client == talk.client for f in alive):
                with_flow = [f for f in alive if f.frontend == talk.frontend]
                if with_flow and (talk.backend, talk.shown_client) == (
                    with_flow[0].backend,
                    with_flow[0].source,
                ):
                    talk.answer(flags)
                    return

    @rule(seconds=st.sampled_from([1, 11, 121, 241, 7441]))
    def time_passes(self, seconds: int) -> None:
        self.sender.wait(seconds)

    @invariant()
    def no_two_live_flows_share_a_tuple(self) -> None:
        assert no_tuple_is_shared(self.sender.model.tracker, self.sender.now) is None


Conversations.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestConversations = Conversations.TestCase
