# SPDX-License-Identifier: Apache-2.0
"""D135-D152 as packets: refusals, policies, ranges, martians, and addresses that are not ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import PORT_UNREACHABLE
from tests.support.packet_model.dialogue import Dialogue, from_node, from_pod, outside
from tests.support.packet_model.generate import Segment, icmp_error
from tests.support.packet_model.lab import (
    ANY,
    HERE,
    LOCALLY,
    NOBODY,
    NOT_HERE,
    RANGED,
    REMOTE,
    SELF,
    Addresses,
    Case,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import TCP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind, Reason

EXTERNAL = [FrontendKind.NODE_PORT, FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER]


@pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.label)
def test_d135_nobody_serves_is_said_at_once(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """D135, R35: RST or port unreachable (the model checks it) from the frontend."""
    inside = from_pod(bench, family, NOBODY, kind, protocol).say()

    assert (inside.action, inside.reasons) == (Action.REDIRECT, (Reason.NO_ENDPOINT,))
    if kind != FrontendKind.CLUSTER_IP:
        outcome = outside(bench, family, NOBODY, kind, protocol).say()
        assert (outcome.action, outcome.reasons) == (Action.REDIRECT, (Reason.NO_ENDPOINT,))
    assert not any(bench.tables.sizes().values())


def test_d135_refusals_of_syns_with_data_acknowledge_it(bench: Bench, family: Addresses) -> None:
    """D135: RFC 9293 3.5.2: ACK = SEQ + length."""
    outcome = outside(bench, family, NOBODY).say("S", sequence=2**32 - 3, payload=b"12345")

    assert outcome.action is Action.REDIRECT


def test_d136_unknown_ports(bench: Bench, family: Addresses, protocol: int) -> None:
    """D136, R37, R40, R90: refused at a ClusterIP, untouched at addresses we do not own."""
    for address, reasons in (
        (family.cluster_ip.format(10), (Reason.UNKNOWN_PORT,)),
        (family.lb(10), ()),
        (family.external.format(10), ()),
        (family.node, ()),
        (family.second_node, ()),
    ):
        talk = from_pod(bench, family, ANY, protocol=protocol)
        talk.frontend = Endpoint(packed(address), 31999)

        outcome = talk.say()

        assert outcome.reasons == reasons
        assert outcome.frame is None


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "RA", "R"])
def test_d136_a_stray_segment_to_an_unknown_port(
    bench: Bench, family: Addresses, flags: str
) -> None:
    """R37: RFC 9293: a RST for an ACK, none for a RST."""
    talk = from_pod(bench, family, ANY)
    talk.frontend = Endpoint(packed(family.cluster_ip.format(10)), 4444)

    outcome = talk.say(flags)

    assert (outcome.action is Action.DROP) >= ("R" in flags)


def test_r42_a_cluster_ip_is_not_served_outside(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """R42: this project's choice."""
    outcome = outside(bench, family, ANY, FrontendKind.CLUSTER_IP, protocol).say()

    assert (outcome.action, outcome.reasons) == (Action.DROP, (Reason.CLUSTER_IP_OUTSIDE,))


def test_r90_other_addresses_of_the_node_ignore_nodeports(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """R90: an address that is not selected."""
    talk = outside(bench, family, ANY, FrontendKind.NODE_PORT, protocol)
    talk.frontend = Endpoint(packed(family.second_node), ANY.node_port)

    outcome = talk.say()

    assert (outcome.action, outcome.frame) == (Action.PASS, None)


@pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.label)
def test_d137_hairpin(bench: Bench, family: Addresses, protocol: int, kind: FrontendKind) -> None:
    """D137, D151, R59: a pod that is its own backend, by every kind of frontend."""
    talk = from_pod(bench, family, SELF, kind, protocol)

    talk.establish()

    assert talk.backend.address == talk.client.address
    assert talk.shown_client.address == packed(family.node)


@pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.label)
def test_d138_pods_reach_every_kind_of_frontend(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """D138, R41, R55, R79: source kept."""
    talk = from_pod(bench, family, REMOTE, kind, protocol)

    talk.establish()

    assert talk.shown_client == talk.client


@pytest.mark.parametrize("kind", EXTERNAL, ids=lambda kind: kind.label)
def test_d139_policy_local_from_outside(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """D139, R48, R49: only the local endpoint, client's own address; silence without one."""
    backends = set()
    for port in range(41000, 41020):
        talk = outside(bench, family, LOCALLY, kind, protocol, port)
        talk.say()
        assert talk.shown_client == talk.client
        backends.add(talk.backend.address)
    dropped = outside(bench, family, NOT_HERE, kind, protocol).say()

    assert backends == {packed(family.pods[1])}
    assert (dropped.action, dropped.reasons) == (Action.DROP, (Reason.NO_LOCAL_ENDPOINT,))


@pytest.mark.parametrize("kind", EXTERNAL, ids=lambda kind: kind.label)
def test_r50_pods_are_short_circuited_past_policy_local(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """R50: the Cluster set, unmasqueraded, also without a local endpoint."""
    talk = from_pod(bench, family, NOT_HERE, kind, protocol)

    talk.say()

    assert talk.backend.address == packed(family.remotes[0])
    assert talk.shown_client == talk.client


@pytest.mark.parametrize("kind", EXTERNAL, ids=lambda kind: kind.label)
def test_r52_pods_that_nothing_shows_to_be_pods_get_the_local_set(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """R52: what tells pods here is their device; by an uplink they are as from outside."""
    served = outside(bench, family, LOCALLY, kind, protocol)
    unserved = outside(bench, family, NOT_HERE, kind, protocol)
    for talk in (served, unserved):
        talk.client = replace(talk.client, address=packed(family.remotes[1]))

    served.say()
    dropped = unserved.say()

    assert served.backend.address == packed(family.pods[1])
    assert served.shown_client == served.client
    assert (dropped.action, dropped.reasons) == (Action.DROP, (Reason.NO_LOCAL_ENDPOINT,))


def test_r44_internal_policy_local_without_endpoint(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """R44: dropped, so that a retransmission succeeds when an endpoint appears."""
    outcome = from_pod(bench, family, NOT_HERE, protocol=protocol).say()

    assert (outcome.action, outcome.reasons) == (Action.DROP, (Reason.NO_LOCAL_ENDPOINT,))


def test_r33_every_endpoint_gets_its_share(bench: Bench, family: Addresses, protocol: int) -> None:
    """R33, D144: 400 connections, four endpoints; 60 is 4.6 sigma below the mean."""
    count: dict[Endpoint, int] = {}
    for port in range(41000, 41400):
        talk = outside(bench, family, ANY, protocol=protocol, port=port)
        talk.say()
        count[talk.backend] = count.get(talk.backend, 0) + 1

    assert len(count) == 4
    assert min(count.values()) > 60


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (FrontendKind.LOAD_BALANCER, False),
        (FrontendKind.NODE_PORT, True),
        (FrontendKind.EXTERNAL_IP, True),
    ],
    ids=lambda value: str(value),
)
def test_d141_source_ranges(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind, allowed: bool
) -> None:
    """D141, R80, R81: LB addresses only; prefixes of a length that is no multiple of 8."""
    stranger = outside(bench, family, RANGED, kind, protocol)
    stranger.client = Endpoint(packed(family.other_client), 4000)
    friend = outside(bench, family, RANGED, kind, protocol)
    pod = from_pod(bench, family, RANGED, kind, protocol)

    assert (stranger.say().frame is not None) is allowed
    assert (pod.say().frame is not None) is allowed
    assert friend.say().frame is not None


def test_d141_ranges_that_overlap_admit_whom_any_of_them_does(
    bench: Bench, family: Addresses
) -> None:
    """D141, R80: the narrower one hides nothing of the wider one, nor the other way round."""
    world = bench.model.world
    to = outside(bench, family, RANGED).frontend
    network, length = packed(family.ranges[0]), family.ranges[1]
    full = len(network) * 8
    inner, lone = network[:-1] + b"\x40", packed(family.other_client)
    ranges = ((network, length), (inner, full - 4), (inner, full), (lone, full))
    key = (to.address, to.port, TCP)
    world.frontends[key] = replace(world.frontends[key], ranges=ranges)
    bench.tables.program(world)

    def served(client: bytes) -> bool:
        talk = outside(bench, family, RANGED)
        talk.client = Endpoint(client, 4000)
        return talk.say().frame is not None

    assert served(inner)
    assert served(inner[:-1] + b"\x41")  # in the one of four bits
    assert served(packed(family.client))  # in the widest only
    assert served(lone)
    assert not served(lone[:-1] + bytes([lone[-1] ^ 1]))


@pytest.mark.parametrize("hook", [Hook.UPLINK_IN, Hook.POD_IN])
def test_d145_loopback_from_outside(
    bench: Bench, family: Addresses, protocol: int, hook: Hook
) -> None:
    """D145: before any lookup, on every port."""
    device = "up0" if hook is Hook.UPLINK_IN else "pod0"
    source = Endpoint(packed(family.client if hook is Hook.UPLINK_IN else family.pods[0]), 4000)
    addresses = ("127.0.0.1", "127.255.0.9") if family.family == 4 else ("::1",)
    for address in addresses:
        for port in (80, ANY.node_port):
            to = Endpoint(packed(address), port)

            outcome = bench.send(hook, device, Segment(source, to, protocol).frame())

            assert outcome.reasons == (Reason.MARTIAN,)


def martians(family: Addresses) -> list[str]:
    ours = [family.node, family.second_node, family.lb(11), family.cluster_ip.format(10)]
    if family.family == 4:
        return ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", *ours]
    return ["::1", "::", "ff02::1", *ours]


@pytest.mark.parametrize("kind", EXTERNAL, ids=lambda kind: kind.label)
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "pod"])
def test_d146_impossible_sources_open_nothing(
    bench: Bench, family: Addresses, protocol: int, kind: FrontendKind, inside: bool
) -> None:
    """D146, D147: no connection, no port, no answer that would go to a victim."""
    for source in martians(family):
        for case in (REMOTE, HERE, NOBODY):
            talk = (from_pod if inside else outside)(bench, family, case, kind, protocol)
            talk.client = Endpoint(packed(source), 4000)

            outcome = talk.say()

            assert (outcome.action, outcome.reasons) == (Action.DROP, (Reason.MARTIAN,))
    assert not any(bench.tables.sizes().values())


@pytest.mark.parametrize(
    ("case", "hook", "device"),
    [(REMOTE, Hook.UPLINK_IN, "up0"), (HERE, Hook.POD_IN, "pod0")],
    ids=["outside", "pod"],
)
def test_d146_nobody_takes_part_in_a_connection_of_the_node(
    bench: Bench, family: Addresses, protocol: int, case: Case, hook: Hook, device: str
) -> None:
    """D146, D147: nor in its ICMP errors; the program itself goes on."""
    talk = from_node(bench, family, case, protocol=protocol)
    talk.establish()
    segment = Segment(talk.client, talk.frontend, protocol, "A", 1001, 5001)
    shown = Segment(talk.frontend, talk.client, protocol, "A", 5001, 1001)
    kind, code = PORT_UNREACHABLE[family.family]
    error = icmp_error(
        talk.client.address, talk.frontend.address, shown.frame(), kind=kind, code=code
    )

    taken = bench.send(hook, device, segment.frame())
    told = bench.send(hook, device, error)

    assert (taken.action, taken.reasons) == (Action.DROP, (Reason.MARTIAN,))
    assert (told.action, told.reasons) == (Action.DROP, (Reason.ICMP_UNKNOWN,))
    talk.close()


def test_d146_r90_unspecified_sources_pass_where_they_belong(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D67, D146: DHCP and duplicate address detection are not ours."""
    any_source = "0.0.0.0" if family.family == 4 else "::"
    everybody = "255.255.255.255" if family.family == 4 else "ff02::1:2"
    frame = Segment(
        Endpoint(packed(any_source), 68), Endpoint(packed(everybody), 67), protocol
    ).frame()

    outcome = bench.send(Hook.UPLINK_IN, "up0", frame)

    assert (outcome.action, outcome.frame) == (Action.PASS, None)


@pytest.mark.parametrize("kind", EXTERNAL, ids=lambda kind: kind.label)
def test_d150_land(bench: Bench, family: Addresses, protocol: int, kind: FrontendKind) -> None:
    """D150: source and destination are the VIP and its port."""
    talk = outside(bench, family, REMOTE, kind, protocol)
    land = Dialogue(bench, talk.frontend, talk.frontend, protocol)

    assert land.say().reasons == (Reason.MARTIAN,)


def test_d151_a_client_that_is_the_remote_backend(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D151: behind the uplink; source and destination of the backend differ all the same."""
    talk = outside(bench, family, REMOTE, FrontendKind.NODE_PORT, protocol)
    talk.client = Endpoint(packed(family.remotes[0]), 40000)

    talk.establish()

    assert talk.backend.address == talk.client.address
    assert talk.shown_client.address == packed(family.node)
