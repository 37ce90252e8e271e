# SPDX-License-Identifier: Apache-2.0
"""D85: one client address and port, to a backend directly and through a frontend, source kept.

To that backend both connections have one tuple. What it answers says which of them it means.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import PORT_UNREACHABLE
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import PAYLOAD, Segment, icmp_error
from tests.support.packet_model.lab import HERE, REMOTE, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action, Outcome


@pytest.fixture(params=["outside", "pod"])
def talk(request: pytest.FixtureRequest, bench: Bench, family: Addresses) -> Dialogue:
    """Through a frontend to a backend that sees the client's own address."""
    if request.param == "outside":
        return outside(bench, family, HERE)
    return from_pod(bench, family, REMOTE)


def directly(talk: Dialogue, flags: str, **changes: object) -> Outcome:
    """What the backend answers to a direct connection of the same client port."""
    segment = Segment(talk.backend, talk.client, flags=flags, sequence=7000, acknowledgement=9001)
    return talk.sender.send(*way_out(talk), replace(segment, **changes).frame())


def way_out(talk: Dialogue) -> tuple[Hook, str]:
    return (Hook.POD_OUT, talk.from_pod) if talk.from_pod else (Hook.UPLINK_OUT, "up0")


def untouched(outcome: Outcome) -> bool:
    return outcome.action is Action.PASS and outcome.frame is None


def end(talk: Dialogue, how: str) -> None:
    talk.establish()
    talk.answer("A", sequence=5001, acknowledgement=1001)
    if how == "finished":
        talk.close()
    elif how == "reset by the client":
        talk.say("R", sequence=1001)
    else:
        talk.answer("R", sequence=5001)


@pytest.mark.parametrize("how", ["finished", "reset by the client", "reset by the backend"])
def test_d85_a_direct_connection_after_one_through_a_vip(talk: Dialogue, how: str) -> None:
    """D85: its SYN-ACK is not taken for the old connection's, nor is anything behind it."""
    end(talk, how)

    outcomes = [directly(talk, flags) for flags in ("SA", "A", "PA", "FA")]

    assert all(untouched(outcome) for outcome in outcomes)


def test_d85_then_through_the_vip_again(talk: Dialogue) -> None:
    """D85, D101: beside the direct connection it gets another port at once."""
    end(talk, "finished")
    directly(talk, "SA")

    talk.say("S", sequence=900_000)
    talk.answer("SA", sequence=70_000, acknowledgement=900_001)
    talk.say("A", sequence=900_001, acknowledgement=70_001)

    assert talk.shown_client.port != talk.client.port
    assert untouched(directly(talk, "PA", payload=PAYLOAD))


def test_d85_a_repeated_syn_ack_is_the_old_connection_s(talk: Dialogue) -> None:
    """D82, D85: reset by the client, repeated by the backend: still shown as the VIP's."""
    talk.say("S", sequence=1000)
    talk.answer("SA", sequence=5000, acknowledgement=1001)
    talk.say("R", sequence=1001)

    assert talk.answer("SA", sequence=5000, acknowledgement=1001).frame is not None


def test_d85_a_direct_connection_that_was_there_first(talk: Dialogue) -> None:
    """D85: the backend answers our SYN with its ACK of the other: that passes, the SYN again
    goes out from another port, and both live on."""
    talk.say("S", sequence=900_000)

    challenge = directly(talk, "A")
    talk.say("S", sequence=900_000)
    talk.answer("SA", sequence=70_000, acknowledgement=900_001)
    talk.say("A", sequence=900_001, acknowledgement=70_001)

    assert untouched(challenge)
    assert talk.shown_client.port != talk.client.port
    assert untouched(directly(talk, "PA", payload=PAYLOAD))
    assert talk.answer("A", sequence=70_001, acknowledgement=900_001).frame is not None


def test_d85_errors_about_the_direct_connection_are_not_ours(
    talk: Dialogue, family: Addresses
) -> None:
    """D58, D85"""
    end(talk, "finished")
    directly(talk, "SA")
    kind, code = PORT_UNREACHABLE[family.family]
    quoted = Segment(talk.client, talk.backend, flags="PA").frame()

    frame = icmp_error(talk.backend.address, talk.client.address, quoted, kind=kind, code=code)

    assert untouched(talk.sender.send(*way_out(talk), frame))


def test_d85_the_direct_connection_is_forgotten(talk: Dialogue, bench: Bench) -> None:
    """D85, D100, D112: four minutes after its backend's last packet the port is free."""
    end(talk, "finished")
    directly(talk, "SA")
    bench.wait(200)
    directly(talk, "A")

    bench.wait(239)
    talk.say("S", sequence=900_000)
    moved = talk.shown_client.port
    talk.answer("RA", sequence=0, acknowledgement=900_001)
    bench.wait(12)
    talk.say("S", sequence=950_000)

    assert moved != talk.client.port
    assert talk.shown_client.port == talk.client.port
