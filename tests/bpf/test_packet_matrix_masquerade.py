# SPDX-License-Identifier: Apache-2.0
"""R56: with masquerade_all the backends of ClusterIPs see the node, and nobody else does.

The model (packet_model/connect.py) checks every verdict and byte; here stand the situations.
That nothing is different with the option off is what all other packet tests say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.bpf.test_packet_differential import (
    LONG,
    SEED,
    Conversations,
    send_mutated,
    tables_differ,
)
from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import PORT_UNREACHABLE
from tests.support.packet_model.corpus import corpus
from tests.support.packet_model.dialogue import Dialogue, from_node, from_pod, outside
from tests.support.packet_model.generate import Segment, fragments, icmp_error
from tests.support.packet_model.invariants import no_tuple_is_shared
from tests.support.packet_model.lab import (
    ANY,
    BY_FAMILY,
    HERE,
    HERE_TWIN,
    HOST,
    LOCALLY,
    NOBODY,
    NOT_HERE,
    REMOTE,
    SECOND,
    SELF,
    STICKY,
    TWIN,
    Addresses,
    Case,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

PACKETS = 20_000
CLUSTER_IP = FrontendKind.CLUSTER_IP
OTHERS = [kind for kind in FrontendKind if kind != CLUSTER_IP]
LEAVING = pytest.mark.parametrize(
    "case",
    [HERE, REMOTE, SECOND, SELF],
    ids=["another pod", "elsewhere", "by the other uplink", "the pod itself"],
)
CROSSING = pytest.mark.parametrize(
    ("start", "case"),
    [(from_pod, REMOTE), (from_pod, SECOND), (outside, HERE)],
    ids=["pod to elsewhere", "pod by the other uplink", "outside to pod"],
)
"""Clients and backends whose packets come in by hooks of different zones."""

Start = Callable[..., Dialogue]


@pytest.fixture(scope="module")
def masquerading_bench(as_root: None) -> Iterator[Bench]:
    with Bench.up(refusals_per_second=1 << 30, masquerade_all=1, cluster_ip_from_outside=1) as up:
        yield up


@pytest.fixture
def masquerading(masquerading_bench: Bench) -> Bench:
    reset(masquerading_bench)
    return masquerading_bench


def reset(bench: Bench) -> None:
    bench.reset()
    bench.model.world.masquerade_all = True
    bench.model.world.cluster_ip_from_outside = True


def node_address(family: Addresses, case: Case) -> bytes:
    """Of the device by which the backend is reached (R60)."""
    return packed(family.second_node if case is SECOND else family.node)


# ---- ClusterIPs --------------------------------------------------------------------------


@LEAVING
def test_the_backend_sees_the_node_in_place_of_a_pod(
    masquerading: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """R56, R59, R60, D114: there and back, byte for byte."""
    talk = from_pod(masquerading, family, case, protocol=protocol)

    talk.establish()
    talk.close()

    assert talk.shown_client == Endpoint(node_address(family, case), talk.client.port)


def test_a_program_of_this_node_sees_the_pod_itself(
    masquerading: Bench, family: Addresses, protocol: int
) -> None:
    """R56: nothing leaves, so kube-proxy's masquerading, behind routing, does not see it."""
    talk = from_pod(masquerading, family, HOST, protocol=protocol)

    talk.establish()
    talk.close()

    assert talk.shown_client == talk.client


@LEAVING
def test_the_backend_sees_the_node_in_place_of_a_client_outside(
    masquerading: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """R42, R56: also where it is on this node."""
    talk = outside(masquerading, family, case, CLUSTER_IP, protocol)

    talk.establish()
    talk.close()

    assert talk.shown_client == Endpoint(node_address(family, case), talk.client.port)


@pytest.mark.parametrize("case", [HERE, REMOTE, SECOND, HOST])
def test_a_program_of_the_node_shows_an_address_of_it(
    masquerading: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """R56: as without the option."""
    talk = from_node(masquerading, family, case, protocol=protocol)

    talk.establish()
    talk.close()

    assert talk.shown_client.address == node_address(family, case)


def test_verdicts_are_the_same(masquerading: Bench, family: Addresses, protocol: int) -> None:
    """R35, R37, R43, R44: only the path is another one."""
    for start in (from_pod, outside):
        refused = start(masquerading, family, NOBODY, CLUSTER_IP, protocol).say()
        lost = start(masquerading, family, NOT_HERE, CLUSTER_IP, protocol).say()
        unknown = start(masquerading, family, ANY, CLUSTER_IP, protocol)
        unknown.frontend = Endpoint(unknown.frontend.address, 4444)
        local = start(masquerading, family, LOCALLY, CLUSTER_IP, protocol)
        local.say()

        assert refused.reasons == (Reason.NO_ENDPOINT,)
        assert (lost.action, lost.reasons) == (Action.DROP, (Reason.NO_LOCAL_ENDPOINT,))
        assert unknown.say().reasons == (Reason.UNKNOWN_PORT,)
        assert local.backend.address == packed(family.pods[1])


def test_affinity_is_to_the_client_and_not_to_the_node(
    masquerading: Bench, family: Addresses
) -> None:
    """R61, R62: all of them look alike to the backend only."""
    talks = [from_pod(masquerading, family, STICKY, port=41000 + n) for n in range(20)]
    others = []
    for number in range(40):
        other = outside(masquerading, family, STICKY, CLUSTER_IP, port=41000 + number)
        address = packed(family.client)[:-1] + bytes([100 + number])
        others.append(replace(other, client=Endpoint(address, 41000)))
    for talk in (*talks, *others):
        talk.say()

    assert len({talk.backend for talk in talks}) == 1
    assert len({talk.backend for talk in others}) == 4


# ---- nothing else ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.label)
def test_no_other_frontend_masquerades(
    masquerading: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """R56, R48, R50, R55: of the same Services."""
    for start, case, sees_node in (
        (from_pod, HERE, False),
        (from_pod, REMOTE, False),
        (from_pod, HOST, False),
        (from_pod, SELF, True),
        (outside, HERE, False),
        (outside, REMOTE, True),
    ):
        talk = start(masquerading, family, case, kind, protocol)
        talk.establish()
        address = packed(family.node) if sees_node else talk.client.address

        assert talk.shown_client == Endpoint(address, talk.client.port)


# ---- ports, fragments, errors ------------------------------------------------------------


@pytest.mark.parametrize("case", [HERE, REMOTE])
def test_clients_of_both_sides_share_no_port(
    masquerading: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """R56, R60, R124, D102: pods and clients outside, by several frontends, one backend."""
    twin = HERE_TWIN if case is HERE else TWIN
    talks = []
    for port in range(41000, 41020):
        for each in (case, twin):
            talks.append(from_pod(masquerading, family, each, CLUSTER_IP, protocol, port))
            talks.append(outside(masquerading, family, each, CLUSTER_IP, protocol, port))
            if case is REMOTE:
                kind = FrontendKind.LOAD_BALANCER
                talks.append(outside(masquerading, family, each, kind, protocol, port))
    for talk in talks:
        talk.establish()

    assert {talk.shown_client.address for talk in talks} == {packed(family.node)}
    assert len({talk.shown_client for talk in talks}) == len(talks)
    assert no_tuple_is_shared(masquerading.model.tracker, masquerading.now) is None
    for talk in talks:
        talk.answer("A", sequence=5001, acknowledgement=1001)


@CROSSING
@pytest.mark.parametrize("lost", ["forward", "reverse"])
def test_either_half_is_rebuilt(
    masquerading: Bench, family: Addresses, protocol: int, start: Start, case: Case, lost: str
) -> None:
    """D109: and the connection goes on being the client's."""
    talk = start(masquerading, family, case, CLUSTER_IP, protocol)
    talk.establish()
    zone = talk.flow.zone
    name = "conntrack" if lost == "forward" else "nat"

    masquerading.tables.clear(f"{name}_{zone}", f"{name}_new_{zone}")
    masquerading.wait(2)
    if lost == "reverse":
        talk.say("A", sequence=1001, acknowledgement=5001)
    talk.answer("A", sequence=5001, acknowledgement=1001)
    talk.say("A", sequence=1001, acknowledgement=5001)

    assert len(masquerading.tables.connections(zone)) == 1
    assert len(masquerading.tables.reply_tuples(zone)) == 1


@CROSSING
def test_a_tuple_that_is_used_again_gets_a_new_connection(
    masquerading: Bench, family: Addresses, start: Start, case: Case
) -> None:
    """D75: the old one goes from the zone it was kept in."""
    talk = start(masquerading, family, case, CLUSTER_IP)
    talk.establish()
    talk.close()

    talk.establish()

    zone = talk.flow.zone
    assert talk.flow.established
    assert len(masquerading.tables.connections(zone)) == 1
    assert tables_differ(masquerading) is None


def test_a_datagram_goes_on_where_the_new_backend_is(
    masquerading: Bench, family: Addresses
) -> None:
    """R111: its replies come in by another hook then, and it is kept for that one."""
    talk = from_pod(masquerading, family, ANY, protocol=UDP)
    zones = set()
    for _ in range(3):
        talk.establish()
        zones.add(talk.flow.zone)
        masquerading.remove_backend(talk.backend)

    talk.establish()

    zones.add(talk.flow.zone)
    assert zones == set(Zone)
    assert tables_differ(masquerading) is None


@LEAVING
@pytest.mark.parametrize("start", [from_pod, outside])
def test_large_datagrams_go_in_parts(
    masquerading: Bench, family: Addresses, start: Start, case: Case
) -> None:
    """D21, D22, D29: both ways, in order."""
    talk = start(masquerading, family, case, CLUSTER_IP, UDP)
    for part in fragments(Segment(talk.client, talk.frontend, UDP, payload=bytes(200)), 64):
        talk.say_frame(part)
    flow = talk.flow  # later parts have no ports to see
    back = Segment(flow.backend, flow.source, UDP, payload=bytes(200))

    for part in fragments(back, 64, identity=99):
        assert talk.answer_frame(part).frame is not None


@LEAVING
@pytest.mark.parametrize("start", [from_pod, outside])
def test_errors_reach_both_sides(
    masquerading: Bench, family: Addresses, protocol: int, start: Start, case: Case
) -> None:
    """D48-D56, D60: quoting what each of them sent."""
    talk = start(masquerading, family, case, CLUSTER_IP, protocol)
    talk.establish()
    kind, code = PORT_UNREACHABLE[family.family]
    sent = Segment(talk.shown_client, talk.backend, protocol).frame()
    shown = Segment(talk.frontend, talk.client, protocol).frame()
    there, back = talk.shown_client.address, talk.frontend.address

    for source in (talk.backend.address, packed(family.router)):
        error = icmp_error(source, there, sent, kind=kind, code=code)
        outcome = masquerading.send(*talk.way_back, error)
        assert (outcome.action, outcome.frame is not None) == (Action.REDIRECT, True)
    error = icmp_error(talk.client.address, back, shown, kind=kind, code=code)
    outcome = masquerading.send(*talk.way_in, error)

    assert (outcome.action, outcome.frame is not None) == (Action.REDIRECT, True)


@pytest.mark.parametrize("case", [HERE, REMOTE])
def test_a_packet_that_may_go_no_further_is_told_to_the_pod(
    masquerading: Bench, family: Addresses, protocol: int, case: Case
) -> None:
    """D52, D63: we forward it, so we say why not."""
    talk = from_pod(masquerading, family, case, protocol=protocol)
    expired = talk.say(ttl=1)
    talk.establish()
    too_big = talk.say("A", sequence=1001, acknowledgement=5001, payload=bytes(1600))

    assert (expired.action, expired.reasons) == (Action.REDIRECT, (Reason.TTL_EXPIRED,))
    assert (too_big.action, too_big.reasons) == (Action.REDIRECT, (Reason.TOO_BIG,))


# ---- whose a connection is ---------------------------------------------------------------


@CROSSING
def test_nobody_takes_part_from_the_other_side(
    masquerading: Bench, family: Addresses, protocol: int, start: Start, case: Case
) -> None:
    """D146, D147: a client's address does not make a packet the client's, nor an error."""
    talk = start(masquerading, family, case, CLUSTER_IP, protocol)
    talk.establish()
    hook, device = (Hook.UPLINK_IN, "up0") if start is from_pod else (Hook.POD_IN, "pod0")
    segment = Segment(talk.client, talk.frontend, protocol, "A", 1001, 5001)
    kind, code = PORT_UNREACHABLE[family.family]
    shown = Segment(talk.frontend, talk.client, protocol).frame()
    error = icmp_error(talk.client.address, talk.frontend.address, shown, kind=kind, code=code)

    taken = masquerading.send(hook, device, segment.frame())
    told = masquerading.send(hook, device, error)

    assert (taken.action, taken.reasons) == (Action.DROP, (Reason.MARTIAN,))
    assert (told.action, told.reasons) == (Action.DROP, (Reason.ICMP_UNKNOWN,))
    talk.close()


@pytest.mark.parametrize("established", [False, True])
def test_a_claim_from_outside_keeps_no_pod_from_its_connection(
    masquerading: Bench, family: Addresses, protocol: int, established: bool
) -> None:
    """D146: the very tuple, opened at the uplink before."""
    pod = from_pod(masquerading, family, REMOTE, protocol=protocol)
    claim = replace(pod, from_pod=None)
    claim.say("S", sequence=1000)
    if established:
        claim.answer("SA", sequence=5000, acknowledgement=1001)
        claim.say("A", sequence=1001, acknowledgement=5001)

    pod.establish()
    pod.close()

    assert claim.say("A", sequence=1001, acknowledgement=5001).reasons == (Reason.MARTIAN,)


def test_mutated_packets_meet_the_rules(masquerading: Bench) -> None:
    """D1-D31, D57, D58, D145, D146 beside connections that are masqueraded."""
    print(f"VIPBEE_FUZZ_SEED={SEED}")
    rng = random.Random(f"{SEED} masquerade")
    for _ in range(4):
        reset(masquerading)
        talks = [
            start(masquerading, family, case, CLUSTER_IP, protocol)
            for family in BY_FAMILY.values()
            for protocol in (TCP, UDP)
            for start in (from_pod, outside)
            for case in (HERE, REMOTE, SELF, HOST)
        ]
        for talk in talks:
            talk.establish()
        send_mutated(masquerading, corpus(talks), PACKETS // 4, rng)
        assert tables_differ(masquerading) is None


class Masqueraded(Conversations):
    """With ClusterIPs among the frontends."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        reset(bench)

    @rule(
        family=st.sampled_from([4, 6]),
        case=st.sampled_from([ANY, HERE, REMOTE, TWIN, HERE_TWIN, SELF, STICKY, HOST]),
        protocol=st.sampled_from([TCP, UDP]),
        port=st.integers(40000, 40002),
        start=st.sampled_from([outside, from_pod, from_node]),
    )
    def begins_by_cluster_ip(
        self, family: int, case: Case, protocol: int, port: int, start: Start
    ) -> None:
        self.begins_by(start, family, case, CLUSTER_IP, protocol, port)


def test_conversations_in_any_order_meet_the_rules(masquerading: Bench) -> None:
    """R33-R35, R56, R110-R114, R124, D68-D98, D102."""
    run_state_machine_as_test(lambda: Masqueraded(masquerading), settings=LONG)
