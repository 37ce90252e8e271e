# SPDX-License-Identifier: Apache-2.0
"""D92-D99: UDP flows, their backends and how long they last."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import from_pod, outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import (
    ANY,
    HERE,
    NOBODY,
    REMOTE,
    Addresses,
    Case,
    dialled,
    lab_world,
)
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import UDP, Endpoint
from vipbee.abi import FrontendKind, Reason


@pytest.fixture(params=["local", "remote"])
def case(request: pytest.FixtureRequest) -> Case:
    return HERE if request.param == "local" else REMOTE


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "pod"])
def test_d92_a_stream_leaves_a_backend_that_is_gone(
    bench: Bench, family: Addresses, answered: bool, inside: bool
) -> None:
    """D92, R111: with the very next datagram."""
    start = from_pod if inside else outside
    talk = start(bench, family, ANY, protocol=UDP)
    talk.say()
    if answered:
        talk.establish()
    old = talk.backend

    bench.remove_backend(old)
    talk.say()

    assert talk.backend != old


def test_r110_a_terminating_backend_keeps_its_flows(
    bench: Bench, family: Addresses, case: Case
) -> None:
    """R110"""
    talk = outside(bench, family, case, protocol=UDP)
    talk.establish()
    old = talk.backend

    bench.remove_backend(old, gone=False)

    assert talk.say().frame is not None
    assert talk.backend == old


def test_d93_a_refused_client_reaches_the_first_endpoint(bench: Bench, family: Addresses) -> None:
    """D93, R112: nothing stale is kept of the time without endpoints."""
    talk = outside(bench, family, NOBODY, protocol=UDP)
    refused = talk.say()

    world = bench.model.world
    (backend, *_) = world.frontends[
        dialled(family, REMOTE, FrontendKind.LOAD_BALANCER, UDP).address, 53, UDP
    ].cluster
    key = (talk.frontend.address, talk.frontend.port, UDP)
    service_id = world.frontends[key].service_id
    newcomer = replace(world.backends[backend], id=4000, service_id=service_id)
    world.add_backend(newcomer)
    world.frontends[key] = replace(world.frontends[key], cluster=(4000,))
    bench.tables.program(world)
    served = talk.say()

    assert refused.reasons == (Reason.NO_ENDPOINT,)
    assert served.action is Action.REDIRECT


def test_r113_the_last_backend_gone_is_refused(bench: Bench, family: Addresses) -> None:
    """R113"""
    talk = outside(bench, family, REMOTE, protocol=UDP)
    talk.establish()

    bench.remove_backend(talk.backend)

    assert talk.say().reasons == (Reason.NO_ENDPOINT,)


def test_d94_two_queries_at_once_go_one_way(bench: Bench, family: Addresses) -> None:
    """D94: A and AAAA from one socket before the first answer."""
    talk = outside(bench, family, ANY, protocol=UDP)
    talk.say(payload=b"A")
    first = talk.backend
    talk.say(payload=b"AAAA")

    assert talk.backend == first
    assert talk.answer(payload=b"1").frame is not None
    assert talk.answer(payload=b"2").frame is not None


def test_d95_d108_an_answer_from_elsewhere_is_not_restored(
    bench: Bench, family: Addresses, case: Case
) -> None:
    """D95, D108: another port or address than was asked."""
    talk = outside(bench, family, case, protocol=UDP)
    talk.establish()
    hook, device = talk.way_back
    for liar in (
        replace(talk.backend, port=talk.backend.port + 1),
        Endpoint(talk.frontend.address[:-1] + b"\x77", talk.backend.port),
    ):
        frame = Segment(liar, talk.shown_client, UDP).frame()

        assert bench.send(hook, device, frame).frame is None


def test_d96_a_new_port_is_a_new_flow(bench: Bench, family: Addresses) -> None:
    """D96: QUIC migration may change the backend; connection ids are not read."""
    one, two = (outside(bench, family, ANY, protocol=UDP, port=p) for p in (40000, 40001))

    one.establish()
    two.establish()

    assert one.flow is not two.flow


@pytest.mark.parametrize(("seconds", "expected"), [(119, True), (123, False)])
def test_d97_idle_for_two_minutes(
    bench: Bench, family: Addresses, seconds: int, expected: bool
) -> None:
    """D97: RFC 4787 REQ-5. A forgotten flow is a new one: seen by the answer to it."""
    talk = outside(bench, family, REMOTE, protocol=UDP)
    talk.establish()
    frame = Segment(talk.backend, talk.shown_client, UDP).frame()

    bench.wait(seconds)

    assert (talk.answer_frame(frame).frame is not None) is expected


def test_d98_the_backend_alone_keeps_a_flow(bench: Bench, family: Addresses, case: Case) -> None:
    """D98: inbound refresh counts here (documented): a stream to a silent client goes on."""
    talk = outside(bench, family, case, protocol=UDP)
    talk.establish()

    for _ in range(3):
        bench.wait(100)
        assert talk.answer().frame is not None


def test_r114_other_services_on_the_same_backend_are_left_alone(
    bench: Bench, family: Addresses
) -> None:
    """R114: TCP stays, and so do UDP flows whose backend still serves."""
    tcp = outside(bench, family, REMOTE)
    here = outside(bench, family, HERE, protocol=UDP)
    gone = outside(bench, family, REMOTE, protocol=UDP)
    for talk in (tcp, here, gone):
        talk.establish()

    bench.remove_backend(gone.backend)

    assert tcp.say("A").frame is not None
    assert here.say().frame is not None
    assert gone.say().reasons == (Reason.NO_ENDPOINT,)


def test_the_lab_is_the_same_after_a_change(bench: Bench) -> None:
    """Tests that change Services leave nothing for the next (reset)."""
    assert bench.model.world.frontends == lab_world(bench.ifindexes).frontends
