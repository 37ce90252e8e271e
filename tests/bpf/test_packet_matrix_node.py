# SPDX-License-Identifier: Apache-2.0
"""Packets of programs of the node, where they leave: D138, and R37: nothing leaves for a ClusterIP.

The model (packet_model/node.py) checks every verdict and byte; here stand the situations.
"""

from __future__ import annotations

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.dialogue import from_node, from_pod
from tests.support.packet_model.generate import Segment, echo, fragments, icmp_error
from tests.support.packet_model.lab import (
    ANY,
    HERE,
    HOST,
    NOBODY,
    NOT_HERE,
    RANGED,
    REMOTE,
    SECOND,
    Addresses,
    Case,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

KINDS = pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.label)
CASES = pytest.mark.parametrize(
    "case",
    [HERE, REMOTE, SECOND, HOST],
    ids=["pod", "elsewhere", "by the other uplink", "program of the node"],
)


@KINDS
@CASES
def test_a_program_of_the_node_talks_to_every_kind_of_frontend(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind, case: Case
) -> None:
    """D138, R41, R51, R89: there and back, byte for byte, its own first hop."""
    talk = from_node(bench, family, case, kind, protocol)
    talk.establish()
    talk.close()

    assert talk.flow.is_nodes


@CASES
def test_a_port_that_replies_are_not_looked_up_for_is_moved(
    bench: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """D107, R94: system ports and numbers of NodePorts."""
    for port in (123, 30081):
        talk = from_node(bench, family, case, protocol=protocol, port=port)
        talk.establish()

        assert talk.shown_client.port in bench.model.world.snat_ports


def test_the_source_is_of_the_interface_it_leaves_by(bench: Bench, family: Addresses) -> None:
    """D114: chosen by the stack for another one."""
    talk = from_node(bench, family, SECOND)
    talk.say()

    assert talk.shown_client.address == packed(family.second_node)


@KINDS
def test_verdicts_reach_the_sending_program(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """R35, R37, R44, R50, R51, R80: refused at once, or silently lost."""
    refused = from_node(bench, family, NOBODY, kind, protocol).say()
    assert (refused.action, refused.reasons) == (Action.REDIRECT, (Reason.NO_ENDPOINT,))

    local = from_node(bench, family, NOT_HERE, kind, protocol).say()
    is_bound = kind == FrontendKind.CLUSTER_IP
    assert local.reasons == ((Reason.NO_LOCAL_ENDPOINT,) if is_bound else ())

    ranged = from_node(bench, family, RANGED, kind, protocol).say()
    is_ranged = kind == FrontendKind.LOAD_BALANCER
    assert ranged.reasons == ((Reason.SOURCE_RANGE,) if is_ranged else ())


def test_an_unknown_port_of_a_cluster_ip_is_refused(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """R37, R40: another VIP's port is not ours."""
    talk = from_node(bench, family, ANY, protocol=protocol)
    talk.frontend = Endpoint(talk.frontend.address, 4444)
    assert talk.say().reasons == (Reason.UNKNOWN_PORT,)

    talk.frontend = Endpoint(packed(family.lb(10)), 4444)
    outcome = talk.say()
    assert (outcome.action, outcome.frame) == (Action.PASS, None)


@pytest.mark.parametrize("flags", ["A", "FA", "R"])
def test_a_connection_older_than_its_service_stays_outside(
    bench: Bench, family: Addresses, flags: str
) -> None:
    """R36, D81: but nothing leaves for a ClusterIP."""
    older = from_node(bench, family, ANY, FrontendKind.LOAD_BALANCER).say(flags)
    assert (older.action, older.frame) == (Action.PASS, None)

    inside = from_node(bench, family, ANY).say(flags)
    assert inside.reasons == (Reason.NO_CONNECTION,)


def test_nothing_forwarded_leaves_for_a_cluster_ip(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """R37: from a device that runs no program of ours."""
    source = Endpoint(packed(family.pods[0]), 40000)
    for case, port in ((ANY, None), (ANY, 4444), (NOBODY, None)):
        to = from_pod(bench, family, case, protocol=protocol).frontend
        frame = Segment(source, Endpoint(to.address, port or to.port), protocol).frame()

        outcome = bench.send(Hook.UPLINK_OUT, "up0", frame)

        assert outcome.reasons == (Reason.CLUSTER_IP_OUTSIDE,)
    assert not any(bench.tables.sizes().values())


def test_other_protocols_do_not_leave_for_a_cluster_ip(bench: Bench, family: Addresses) -> None:
    """R39, D14."""
    node, vip = packed(family.node), packed(family.cluster_ip.format(10))

    assert bench.send(Hook.UPLINK_OUT, "up0", echo(node, vip)).reasons == (Reason.ECHO_IGNORED,)
    passed = bench.send(Hook.UPLINK_OUT, "up0", echo(node, packed(family.lb(10))))
    assert (passed.action, passed.frame) == (Action.PASS, None)


@CASES
def test_large_datagrams_go_in_parts(bench: Bench, family: Addresses, case: Case) -> None:
    """D21, D22: both ways, in order."""
    talk = from_node(bench, family, case, protocol=UDP)
    there = Segment(talk.client, talk.frontend, UDP, payload=bytes(range(200)))
    for part in fragments(there, 64):
        talk.say_frame(part)
    flow = talk.flow  # later parts have no ports to see
    back = Segment(flow.backend, flow.source, UDP, payload=bytes(range(200)))
    for part in fragments(back, 64, identity=99):
        assert talk.answer_frame(part).frame is not None


@pytest.mark.parametrize("case", [HERE, REMOTE], ids=["pod", "elsewhere"])
def test_errors_reach_the_program(
    bench: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """D48-D56: quoting what the program sent."""
    talk = from_node(bench, family, case, protocol=protocol)
    talk.establish()
    sent = Segment(talk.shown_client, talk.backend, protocol).frame()
    kind, code = (3, 1) if family.family == 4 else (1, 0)

    for source in (talk.backend.address, packed(family.router)):
        error = icmp_error(source, talk.shown_client.address, sent, kind=kind, code=code)
        outcome = bench.send(*talk.way_back, error)

        assert outcome.action is Action.PASS
        assert outcome.frame is not None


def test_a_datagram_goes_on_where_the_new_backend_is(bench: Bench, family: Addresses) -> None:
    """R111: from a pod of this node to one elsewhere, so its replies come in by an uplink."""
    talk = from_node(bench, family, ANY, protocol=UDP)
    seen = set()
    for _ in range(4):
        talk.say()
        talk.answer()
        seen.add(talk.backend.address)
        if len(bench.model.tracker.forward) != 1:
            raise AssertionError("an old half is left")
        if len(seen) < 4:
            bench.remove_backend(talk.backend)

    assert len(seen) == 4


def test_a_client_evicted_from_the_tables_is_known_again_by_its_reply(
    bench: Bench, family: Addresses
) -> None:
    """D109."""
    talk = from_node(bench, family, REMOTE)
    talk.establish()
    bench.tables.clear("conntrack_outside", "conntrack_new_outside")

    assert talk.answer("A").action is Action.PASS
    assert talk.say("A", sequence=1001, acknowledgement=5001).action is Action.REDIRECT


def test_the_mss_of_another_device_is_told(bench: Bench, family: Addresses) -> None:
    """D53: too large for the way that routing says."""
    talk = from_node(bench, family, REMOTE, protocol=TCP)
    talk.establish()

    outcome = talk.say("PA", sequence=1001, acknowledgement=5001, payload=bytes(1500))

    assert outcome.reasons == (Reason.TOO_BIG,)
