# SPDX-License-Identifier: Apache-2.0
"""D48-D62: the 216 cells of ICMP errors about translated connections.

    family × inner protocol × type × quote × direction × path   2 × 3 × 3 × 2 × 2 × 3

Expected frames are made by Scapy from the untranslated ends: outer, inner and all sums.
Echo is never translated for a Service (R39): its cells say what happens to errors about it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from scapy.layers import inet

from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import PORT_UNREACHABLE, TIME_EXCEEDED, TOO_BIG
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import Segment, echo, framed, icmp_error
from tests.support.packet_model.lab import HERE, REMOTE, SELF, V4, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action, Outcome
from tests.support.packet_model.wire import ETH_LENGTH, TCP, UDP, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

KINDS = {"unreachable": PORT_UNREACHABLE, "too big": TOO_BIG, "exceeded": TIME_EXCEEDED}
PATHS = ["outside", "pod", "hairpin"]


@dataclass(frozen=True)
class Cell:
    family: Addresses
    kind: str
    quote: int | None  # bytes of L4; None: all

    def error(self, source: bytes, destination: bytes, quoted: bytes, *, ttl: int = 64) -> bytes:
        kind, code = KINDS[self.kind][self.family.family]
        mtu = 1300 if self.kind == "too big" else 0
        return icmp_error(
            source,
            destination,
            quoted,
            kind=kind,
            code=code,
            extra=mtu,
            quote_l4=self.quote,
            ttl=ttl,
        )


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(params=[8, None], ids=["8 bytes", "full"])
def cell(request: pytest.FixtureRequest, family: Addresses, kind: str) -> Cell:
    return Cell(family, kind, request.param)


def talk_on(path: str, bench: Bench, family: Addresses, protocol: int) -> Dialogue:
    if path == "outside":
        talk = outside(bench, family, REMOTE, FrontendKind.NODE_PORT, protocol)
    else:
        talk = from_pod(bench, family, SELF if path == "hairpin" else REMOTE, protocol=protocol)
    talk.establish()
    return talk


def forward(talk: Dialogue) -> Segment:
    """The client's packet, and `seen_by_backend` the same one translated."""
    return Segment(talk.client, talk.frontend, talk.protocol, "PA", 1001, 5001, b"data" * 5)


def backward(talk: Dialogue) -> Segment:
    return Segment(talk.frontend, talk.client, talk.protocol, "PA", 5001, 1001, b"data" * 5)


def source_of(outcome: Outcome) -> bytes:
    assert outcome.frame is not None
    packet = parse(outcome.frame)
    assert isinstance(packet, Packet)
    return packet.source


def spent(outcome: Outcome) -> int:
    return 64 - (outcome.action is Action.REDIRECT)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sender", ["router", "backend"])
def test_an_error_about_the_client_s_packet_reaches_the_client(
    bench: Bench, cell: Cell, protocol: int, path: str, sender: str
) -> None:
    """D48-D52, D54-D56, D60: the client sees its own packet quoted, and a VIP for a backend."""
    talk = talk_on(path, bench, cell.family, protocol)
    original = forward(talk)
    translated = replace(original, source=talk.shown_client, destination=talk.backend)
    source = talk.backend.address if sender == "backend" else packed(cell.family.router)

    outcome = talk.answer_frame(cell.error(source, talk.shown_client.address, translated.frame()))

    shown = source_of(outcome)
    assert shown == talk.frontend.address or (sender == "router" and shown == source)
    expected = cell.error(shown, talk.client.address, original.frame(), ttl=spent(outcome))
    assert outcome.frame == expected


@pytest.mark.parametrize("path", PATHS)
def test_an_error_about_the_answer_reaches_the_backend(
    bench: Bench, cell: Cell, protocol: int, path: str
) -> None:
    """D53, D54: path MTU discovery of the backend works through every kind of path."""
    talk = talk_on(path, bench, cell.family, protocol)
    shown = backward(talk)
    original = replace(shown, source=talk.backend, destination=talk.shown_client)

    outcome = talk.say_frame(cell.error(talk.client.address, talk.frontend.address, shown.frame()))

    expected = cell.error(
        source_of(outcome), talk.backend.address, original.frame(), ttl=spent(outcome)
    )
    assert outcome.frame == expected
    redirected = outcome.action is Action.REDIRECT
    assert source_of(outcome) == (talk.shown_client if redirected else talk.client).address


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("to_client", [True, False], ids=["to client", "to backend"])
def test_an_error_about_an_echo_is_not_ours(
    bench: Bench, cell: Cell, path: str, to_client: bool
) -> None:
    """D50, D65: echo cells. A node address gets it, a VIP does not."""
    talk = talk_on(path, bench, cell.family, TCP)
    family = cell.family
    if to_client:
        quoted = echo(talk.shown_client.address, talk.backend.address)
        frame = cell.error(packed(family.router), talk.shown_client.address, quoted)
        outcome = talk.answer_frame(frame)
    else:
        quoted = echo(talk.frontend.address, talk.client.address)
        outcome = talk.say_frame(cell.error(talk.client.address, talk.frontend.address, quoted))

    assert outcome.frame is None
    to_vip = not to_client and path != "outside"
    assert outcome.action is (Action.DROP if to_vip else Action.PASS)


@pytest.mark.parametrize("sender", ["router", "backend"])
def test_d51_errors_of_local_backends_leave_as_the_vip(
    bench: Bench, cell: Cell, protocol: int, sender: str
) -> None:
    """D51, D56: egress direction, the backend is on this node."""
    talk = outside(bench, cell.family, HERE, protocol=protocol)
    talk.establish()
    original = forward(talk)
    translated = replace(original, destination=talk.backend)
    source = talk.backend.address if sender == "backend" else packed(cell.family.node)

    outcome = talk.answer_frame(cell.error(source, talk.client.address, translated.frame()))

    shown = source_of(outcome)
    assert shown == talk.frontend.address or (sender == "router" and shown == source)
    assert outcome.frame == cell.error(shown, talk.client.address, original.frame())


def test_d53_errors_for_local_backends_keep_their_source(
    bench: Bench, cell: Cell, protocol: int
) -> None:
    """D53: from the client or a router on its side."""
    talk = outside(bench, cell.family, HERE, protocol=protocol)
    talk.establish()
    shown = backward(talk)
    original = replace(shown, source=talk.backend)
    router = packed(cell.family.elsewhere)

    outcome = talk.say_frame(cell.error(router, talk.frontend.address, shown.frame()))

    assert outcome.frame == cell.error(router, talk.backend.address, original.frame())


@pytest.mark.parametrize("place", [2, 8 + 1, -1], ids=["checksum", "quote", "last byte"])
@pytest.mark.parametrize("path", PATHS)
def test_d57_a_bad_icmp_checksum_is_dropped(
    bench: Bench, cell: Cell, protocol: int, path: str, place: int
) -> None:
    """D57, RFC 5508 REQ-3: with 8 bytes quoted and with all, in and out."""
    talk = talk_on(path, bench, cell.family, protocol)
    translated = replace(forward(talk), source=talk.shown_client, destination=talk.backend)
    frame = cell.error(packed(cell.family.router), talk.shown_client.address, translated.frame())
    at = ETH_LENGTH + (20 if cell.family.family == 4 else 40) + place
    at = at if place > 0 else len(frame) - 1

    outcome = talk.answer_frame(frame[:at] + bytes([frame[at] ^ 0x40]) + frame[at + 1 :])

    assert outcome.action is Action.DROP
    assert outcome.reasons == (Reason.ICMP_MALFORMED,)


def test_d57_an_error_too_long_to_be_one_stays_as_wrong_as_it_is(
    bench: Bench, family: Addresses, kind: str
) -> None:
    """D35, D57: RFC 1812 and 4443 end at 576 and 1,280 bytes; we sum up to 1,536."""
    cell = Cell(family, kind, quote=None)
    talk = outside(bench, family, HERE)
    talk.establish()
    shown = replace(backward(talk), payload=bytes(1800))
    frame = cell.error(packed(family.router), talk.frontend.address, shown.frame())
    at = ETH_LENGTH + (20 if family.family == 4 else 40) + 2

    outcome = bench.run(
        Hook.UPLINK_IN, "up0", frame[:at] + bytes([frame[at] ^ 0x40]) + frame[at + 1 :]
    )

    assert outcome.action is Action.PASS
    assert outcome.frame != frame


def test_d58_d62_errors_about_nothing_known(bench: Bench, cell: Cell, protocol: int) -> None:
    """D58: dropped at a VIP, passed to the node; D62: errors about errors never translated."""
    talk = outside(bench, cell.family, REMOTE, protocol=protocol)
    unknown = backward(talk).frame()
    nested = cell.error(talk.frontend.address, talk.client.address, unknown)

    dropped = [
        talk.say_frame(cell.error(talk.client.address, talk.frontend.address, quoted))
        for quoted in (unknown, nested)
    ]
    passed = talk.say_frame(cell.error(talk.client.address, packed(cell.family.node), unknown))

    assert [outcome.action for outcome in dropped] == [Action.DROP, Action.DROP]
    assert (passed.action, passed.frame) == (Action.PASS, None)


@pytest.mark.parametrize("path", PATHS)
def test_d59_errors_neither_refresh_nor_end_a_connection(
    bench: Bench, cell: Cell, path: str
) -> None:
    """D59: RFC 4787 REQ-12, RFC 5382 REQ-10: no entry changes by a single bit."""
    talk = talk_on(path, bench, cell.family, UDP)
    translated = replace(forward(talk), source=talk.shown_client, destination=talk.backend)
    bench.wait(60)
    before = {key: bytes(v) for key, v in bench.tables.connections(talk.flow.zone).items()}

    talk.answer_frame(
        cell.error(packed(cell.family.router), talk.shown_client.address, translated.frame())
    )
    talk.say_frame(cell.error(talk.client.address, talk.frontend.address, backward(talk).frame()))

    after = {key: bytes(v) for key, v in bench.tables.connections(talk.flow.zone).items()}
    assert after == before


@pytest.mark.parametrize("options", [b"\x94\x04\0\0", b"\x94\x04\0\0" * 10])
def test_d61_ip_options_outside_and_inside(bench: Bench, protocol: int, options: bytes) -> None:
    """D61: IPv6 has none."""
    talk = talk_on("outside", bench, V4, protocol)
    translated = replace(forward(talk), source=talk.shown_client, destination=talk.backend)
    quoted = translated.ip()
    quoted.options = [inet.IPOption(options)]
    frame = icmp_error(
        packed(V4.router),
        talk.shown_client.address,
        framed(quoted),
        kind=3,
        code=4,
        extra=1400,
        options=options,
    )

    assert talk.answer_frame(frame).action is Action.REDIRECT


@pytest.mark.parametrize("path", ["outside", "hairpin"])
def test_an_error_with_ttl_1_is_not_forwarded(bench: Bench, cell: Cell, path: str) -> None:
    """D62, D63: and no error answers it."""
    talk = talk_on(path, bench, cell.family, TCP)
    translated = replace(forward(talk), source=talk.shown_client, destination=talk.backend)

    outcome = talk.answer_frame(
        cell.error(packed(cell.family.router), talk.shown_client.address, translated.frame(), ttl=1)
    )

    assert outcome.reasons == (Reason.TTL_EXPIRED,)


def test_errors_for_others_pass_untouched(bench: Bench, cell: Cell, protocol: int) -> None:
    """D18, D58: forwarded errors about other people's packets."""
    talk = outside(bench, cell.family, REMOTE, protocol=protocol)
    frame = cell.error(
        packed(cell.family.router), packed(cell.family.elsewhere), backward(talk).frame()
    )

    for hook, device in zip(Hook, ("up0", "up0", "pod0", "pod0"), strict=True):
        outcome = bench.send(hook, device, frame)
        assert (outcome.action, outcome.frame) == (Action.PASS, None)
