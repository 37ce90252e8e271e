# SPDX-License-Identifier: Apache-2.0
"""D68-D91: TCP states and lifetimes. Time passes by ageing the entries (`Bench.wait`)."""

from __future__ import annotations

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import PAYLOAD, Segment
from tests.support.packet_model.lab import (
    ANY,
    HERE,
    HERE_TWIN,
    REMOTE,
    STICKY,
    TWIN,
    Addresses,
    Case,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from vipbee.abi import ConntrackSeen, FrontendKind

HOUR = 3600


@pytest.fixture(params=["local", "remote"])
def case(request: pytest.FixtureRequest) -> Case:
    return HERE if request.param == "local" else REMOTE


def lives(talk: Dialogue) -> bool:
    """Does the client's next segment still reach the backend it had?"""
    before = talk.backend
    outcome = talk.say("PA", sequence=1001, acknowledgement=5001, payload=b"?")
    return outcome.frame is not None and talk.backend == before


def test_d68_a_connection_from_syn_to_fin(bench: Bench, family: Addresses, case: Case) -> None:
    """D68: and what each side has said stands in the entry."""
    talk = outside(bench, family, case)

    talk.establish()
    talk.say("PA", sequence=1001, acknowledgement=5001, payload=PAYLOAD)
    talk.answer("PA", sequence=5001, acknowledgement=1001 + len(PAYLOAD), payload=PAYLOAD)
    talk.close()

    (entry,) = bench.tables.connections(talk.flow.zone).values()
    both = ConntrackSeen.PACKET | ConntrackSeen.SYN | ConntrackSeen.FIN
    assert (entry["client_seen"], entry["backend_seen"]) == (both, both)
    assert bench.tables.size("conntrack_outside") == 1
    assert bench.tables.size("conntrack_new_outside") == 0


@pytest.mark.parametrize(
    ("stage", "stays", "goes"),
    [("syn", 239, 242), ("established", 7439, 7442), ("closing", 239, 242), ("reset", 9, 12)],
)
def test_d68_lifetimes(
    bench: Bench, family: Addresses, case: Case, stage: str, stays: int, goes: int
) -> None:
    """D68, D69, D83: RFC 5382's numbers; after it the entry is as if absent."""
    for wait, expected in ((stays, True), (goes, False)):
        bench.reset()
        talk = outside(bench, family, case)
        talk.say()
        if stage != "syn":
            talk.establish()
        if stage == "closing":
            talk.close()
        if stage == "reset":
            talk.answer("R", sequence=5001)

        bench.wait(wait)

        assert lives(talk) is expected


def test_d69_a_refusing_server_frees_the_tuple_soon(
    bench: Bench, family: Addresses, case: Case
) -> None:
    """D69: RST right after SYN: at most 10 s."""
    talk = outside(bench, family, case)
    talk.say()
    talk.answer("RA", sequence=0, acknowledgement=1001)

    bench.wait(12)

    assert not lives(talk)


@pytest.mark.parametrize("side", ["client", "backend"])
@pytest.mark.parametrize("offset", [0x80000000, 0x40000000, 100_000])
def test_d70_a_blind_reset_does_not_end_a_connection(
    bench: Bench, family: Addresses, case: Case, side: str, offset: int
) -> None:
    """D70: out of sequence; passed on, for the ends to judge, but not believed."""
    talk = outside(bench, family, case)
    talk.establish()
    talk.answer("A", sequence=5001, acknowledgement=1001)

    if side == "client":
        talk.say("R", sequence=1001 + offset)
    else:
        talk.answer("R", sequence=5001 + offset)
    bench.wait(60)

    assert lives(talk)


def test_d71_a_reset_is_taken_back_if_that_side_goes_on(
    bench: Bench, family: Addresses, case: Case
) -> None:
    """D71"""
    talk = outside(bench, family, case)
    talk.establish()

    talk.answer("R", sequence=5001)
    talk.answer("A", sequence=5001, acknowledgement=1001)
    bench.wait(60)

    assert lives(talk)


def test_d72_the_reset_stands_in_the_entry_the_sweep_reads(
    bench: Bench, family: Addresses, case: Case
) -> None:
    """D72: one forward half holds the state of both sides."""
    talk = outside(bench, family, case)
    talk.establish()

    talk.answer("R", sequence=5001)

    (entry,) = bench.tables.connections(talk.flow.zone).values()
    assert entry["backend_seen"] & ConntrackSeen.RST


def test_d73_simultaneous_close(bench: Bench, family: Addresses, case: Case) -> None:
    """D73: FINs cross; simultaneous open cannot be: a Service's backend never dials."""
    talk = outside(bench, family, case)
    talk.establish()

    talk.say("FA", sequence=1001, acknowledgement=5001)
    talk.answer("FA", sequence=5001, acknowledgement=1001)
    talk.say("A", sequence=1002, acknowledgement=5002)
    outcome = talk.answer("A", sequence=5002, acknowledgement=1002)

    assert outcome.frame is not None


@pytest.mark.parametrize("side", ["client", "backend"])
def test_d74_half_closed_connections_live_on(
    bench: Bench, family: Addresses, case: Case, side: str
) -> None:
    """D74"""
    talk = outside(bench, family, case)
    talk.establish()
    if side == "client":
        talk.say("FA", sequence=1001, acknowledgement=5001)
    else:
        talk.answer("FA", sequence=5001, acknowledgement=1001)

    bench.wait(HOUR)

    assert lives(talk)


@pytest.mark.parametrize("end", ["fin", "rst"])
def test_d75_a_closed_tuple_is_used_again_at_once(
    bench: Bench, family: Addresses, case: Case, end: str
) -> None:
    """D75: TIME_WAIT reuse; and the new connection lives as a new one does."""
    talk = outside(bench, family, case)
    talk.establish()
    if end == "fin":
        talk.close()
    else:
        talk.say("R", sequence=1001)

    talk.say("S", sequence=900_000)
    talk.answer("SA", sequence=70_000, acknowledgement=900_001)
    talk.say("A", sequence=900_001, acknowledgement=70_001)
    bench.wait(HOUR)

    assert lives(talk)


def test_d75_a_closed_tuple_whose_backend_is_gone_gets_another(
    bench: Bench, family: Addresses
) -> None:
    """D75"""
    talk = outside(bench, family, ANY)
    talk.establish()
    talk.close()
    old = talk.backend
    bench.remove_backend(old)

    talk.say("S", sequence=900_000)

    assert talk.backend != old


def test_d76_a_repeated_syn_goes_to_the_same_backend(bench: Bench, family: Addresses) -> None:
    """D76"""
    talk = outside(bench, family, ANY)
    talk.say()
    first = talk.backend

    for _ in range(20):
        talk.say()
        assert talk.backend == first


@pytest.mark.parametrize("start", [outside, from_pod], ids=["outside", "pod"])
def test_d77_d78_a_repeated_syn_leaves_a_backend_that_is_gone(
    bench: Bench, family: Addresses, start: object
) -> None:
    """D77, D78: at once, not after the entry's lifetime."""
    talk = (outside if start is outside else from_pod)(bench, family, ANY)
    talk.say()
    first = talk.backend
    bench.remove_backend(first)

    talk.say()

    assert talk.backend != first


@pytest.mark.parametrize("gone", [False, True], ids=["terminating", "deleted"])
def test_d79_d80_established_connections_keep_their_backend(
    bench: Bench, family: Addresses, case: Case, gone: bool
) -> None:
    """D79, R34. D80: kept also when deleted; the pod's own RST or ICMP error ends it."""
    talk = outside(bench, family, case)
    talk.establish()

    bench.remove_backend(talk.backend, gone=gone)

    assert lives(talk)
    assert talk.answer("A", sequence=5001, acknowledgement=1001).frame is not None


@pytest.mark.parametrize("kind", [FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER])
def test_d81_a_segment_without_connection_is_never_given_a_port(
    bench: Bench, family: Addresses, case: Case, kind: FrontendKind
) -> None:
    """D81, D88, R94: to the stack at a node address, dropped at a VIP; nothing is kept."""
    talk = outside(bench, family, case, kind)

    outcomes = [talk.say(flags) for flags in ("A", "PA", "FA", "R")]

    wanted = Action.PASS if kind == FrontendKind.NODE_PORT else Action.DROP
    assert [outcome.action for outcome in outcomes] == [wanted] * 4
    assert not any(bench.tables.sizes().values())


@pytest.mark.parametrize("sequence", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_d82_r115_segments_out_of_window_are_translated_too(
    bench: Bench, family: Addresses, case: Case, sequence: int
) -> None:
    """D82, R115: never shown to the client as from the backend."""
    talk = outside(bench, family, case)
    talk.establish()

    assert talk.answer("A", sequence=sequence, acknowledgement=sequence).frame is not None
    assert talk.say("A", sequence=sequence, acknowledgement=sequence).frame is not None


def test_d84_keepalives_hold_a_connection(bench: Bench, family: Addresses, case: Case) -> None:
    """D83, D84"""
    talk = outside(bench, family, case)
    talk.establish()

    for _ in range(13):
        bench.wait(7300)
        talk.say("A", sequence=1000, acknowledgement=5001)
        talk.answer("A", sequence=5001, acknowledgement=1001)

    assert lives(talk)


def test_d85_a_direct_connection_beside_a_nodeport(bench: Bench, family: Addresses) -> None:
    """D85: the same client address and port straight to the pod passes untouched."""
    through = outside(bench, family, REMOTE, FrontendKind.NODE_PORT)
    through.establish()
    direct = Segment(through.client, through.backend)
    answer = Segment(through.backend, through.client, flags="SA")

    there = bench.send(Hook.UPLINK_IN, "up0", direct.frame())
    back = bench.send(Hook.UPLINK_IN, "up0", answer.frame())

    assert there.frame is back.frame is None


@pytest.mark.parametrize("pair", [(REMOTE, TWIN), (HERE, HERE_TWIN)], ids=["remote", "local"])
def test_d86_r124_two_vips_with_one_backend(
    bench: Bench, family: Addresses, protocol: int, pair: tuple[Case, Case]
) -> None:
    """D86, R124: both at once from one client address and port, replies to the right VIP."""
    one, two = (outside(bench, family, case, protocol=protocol) for case in pair)

    one.establish()
    two.establish()
    one.answer("A", sequence=5001, acknowledgement=1001)
    two.answer("A", sequence=5001, acknowledgement=1001)

    assert one.backend == two.backend
    assert one.shown_client != two.shown_client


def test_d86_from_a_pod(bench: Bench, family: Addresses, protocol: int) -> None:
    """D86, R124"""
    one, two = (from_pod(bench, family, case, protocol=protocol) for case in (REMOTE, TWIN))

    one.establish()
    two.establish()
    one.answer("A", sequence=5001, acknowledgement=1001)

    assert one.shown_client != two.shown_client


def test_d90_state_appears_with_the_ack_too(bench: Bench, family: Addresses, case: Case) -> None:
    """D90: SYN cookies: our entry is from the SYN, whatever the server remembers."""
    talk = outside(bench, family, case)
    talk.say("S", sequence=1000)
    talk.answer("SA", sequence=5000, acknowledgement=1001)
    bench.wait(200)

    talk.say("A", sequence=1001, acknowledgement=5001)
    bench.wait(HOUR)

    assert lives(talk)


def test_d91_one_entry_for_one_tuple(bench: Bench, family: Addresses, case: Case) -> None:
    """D91: the racing CPUs are in tests/bpf of the C; here: never a second entry."""
    talk = outside(bench, family, case)

    for flags in ("S", "S", "A", "S", "PA"):
        talk.say(flags)

    assert len(bench.tables.connections(talk.flow.zone)) == 1
    assert len(bench.tables.reply_tuples(talk.flow.zone)) == 1


def test_affinity_survives_the_connection(bench: Bench, family: Addresses, protocol: int) -> None:
    """D140, R61-R64: 30 ports of one client, one backend, until that is gone."""
    talks = [
        outside(bench, family, STICKY, protocol=protocol, port=port) for port in range(41000, 41030)
    ]
    for talk in talks:
        talk.say()
    (backend,) = {talk.backend for talk in talks}

    bench.remove_backend(backend)
    late = [
        outside(bench, family, STICKY, protocol=protocol, port=port) for port in range(42000, 42030)
    ]
    for talk in late:
        talk.say()

    assert len({talk.backend for talk in late}) == 1
    assert late[0].backend != backend


def test_affinity_ends_with_its_timeout(bench: Bench, family: Addresses, protocol: int) -> None:
    """D140, R63: sliding: each new connection begins it again; after it the choice is free."""

    def dial(port: int) -> Dialogue:
        talk = outside(bench, family, STICKY, protocol=protocol, port=port)
        talk.say()
        return talk

    first = dial(41000).backend
    for port in range(41001, 41004):
        bench.wait(STICKY.affinity_timeout_s - 2)
        assert dial(port).backend == first
    others = set()
    for port in range(42000, 42040):
        bench.wait(STICKY.affinity_timeout_s + 2)
        others.add(dial(port).backend)

    assert len(others) > 1


def test_the_lab_s_world_is_what_the_tables_say(bench: Bench) -> None:
    """The bench programs what the model believes: one client, one answer."""
    assert bench.tables.size("frontends") == len(bench.model.world.frontends)
    assert bench.tables.size("addresses") == len(bench.model.world.addresses)
