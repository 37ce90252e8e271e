# SPDX-License-Identifier: Apache-2.0
"""`vipbee explain` beside the shipped packet programs: it says what they do, for every
destination and sender of the lab, known connections included. So it cannot drift from the C.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import numpy as np
import pytest

from tests.support.explaining import Foreteller, Happened, Sent, complaint, what_happens
from tests.support.packet_bench import Bench
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import (
    ANY,
    BY_FAMILY,
    CASES,
    HERE,
    HOST,
    LOCALLY,
    REMOTE,
    SELF,
    STICKY,
    TWIN,
    Addresses,
    Case,
    dialled,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.program import mapped
from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import AddressFlag, FrontendKind, MapName, Reason
from vipbee.address import format_address
from vipbee.core.service_cidrs import render_cidrs
from vipbee.datapath import syscall
from vipbee.datapath.layouts import load_layouts
from vipbee.observe.explain.view import Path, Verdict

WIRE = 9999
"""ifindex of a device that runs no program."""
OTHER_NODE = {4: "172.30.0.2", 6: "fd00:172:30::2"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")
MANY = 200  # connections, to see each of four backends: misses one once in 10^25


@pytest.fixture
def world(bench: Bench) -> Bench:
    """The lab with another node, loopback NodePorts, ServiceCIDRs, a device without program."""
    every_node = AddressFlag.NODE
    for family in BY_FAMILY:
        addresses = bench.model.world.addresses
        addresses[packed(OTHER_NODE[family])] = every_node
        addresses[packed(LOOPBACK[family])] = every_node | AddressFlag.OWN | AddressFlag.HOST_ONLY
    bench.tables.program(bench.model.world)
    layouts = load_layouts()
    cidrs = render_cidrs(layouts, [ip_network(cidr) for cidr in CIDRS])
    syscall.map_update(bench.tables.fd_of(MapName.SERVICE_CIDRS), np.zeros(1, np.uint32), cidrs)
    syscall.map_update(
        bench.tables.fd_of(MapName.DEVICES),
        np.array([WIRE], np.uint32),
        np.zeros(1, layouts["device"]),
    )
    return bench


@pytest.fixture
def foreteller(world: Bench) -> Iterator[Foreteller]:
    with Foreteller(world) as up:
        yield up


# ---- every destination, every sender -------------------------------------------------------


def destinations(family: Addresses, protocol: int) -> Iterator[Endpoint]:
    for case, kind in itertools.product(CASES, FrontendKind):
        yield dialled(family, case, kind, protocol)
    beside = [
        (family.cluster_ip.format(ANY.number), 4444),
        (family.cluster_ip.format(ANY.number), 31999),
        (family.lb(ANY.number), 4444),
        (family.external.format(ANY.number), 31999),
        (family.cluster_ip.format(99), 80),  # nobody's, of a ServiceCIDR
        (family.elsewhere, 80),
        (family.pods[0], 8080),
        (family.client, 40000),
    ]
    for address in (
        family.node,
        family.second_node,
        OTHER_NODE[family.family],
        LOOPBACK[family.family],
    ):
        beside += [(address, port) for port in (22, 31999, ANY.node_port, 40000)]
    for text, port in beside:
        yield Endpoint(packed(text), port)


def senders(world: Bench, family: Addresses, to: Endpoint) -> Iterator[Sent]:
    """From every side, who may and who may not."""
    martians = ("127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255")
    if family.family == 6:
        martians = ("::1", "ff02::1", "::", "ff0e::2")
    vips = (family.lb(11), family.cluster_ip.format(10), family.external.format(13))
    ours = (family.node, family.second_node, *vips)
    for text in (family.client, family.other_client, *family.remotes, *martians, *ours):
        yield Sent(Hook.UPLINK_IN, "up0", at(text), to, by="up0")
    yield Sent(Hook.UPLINK_IN, "up1", Endpoint(to.address, 40000), to, by="up1")  # LAND
    yield Sent(Hook.UPLINK_IN, "up1", at(OTHER_NODE[family.family]), to, by="up1")
    for text in (family.pods[0], family.client, *martians, *ours):
        yield Sent(Hook.POD_IN, "pod0", at(text), to, by="pod0")
    yield Sent(Hook.POD_IN, "pod1", at(family.pods[1]), to, by="pod1")
    flags = world.model.world.flags(to.address)
    way_out = "lo" if flags & (AddressFlag.OWN | AddressFlag.SNAT) else "up0"
    for text in (family.node, family.second_node, LOOPBACK[family.family]):
        yield Sent(Hook.UPLINK_OUT, way_out, at(text), to)
    if way_out == "up0":
        for text in (family.pods[0], family.client):
            yield Sent(Hook.UPLINK_OUT, "up0", at(text), to, by=WIRE)


def at(text: str, port: int = 40000) -> Endpoint:
    return Endpoint(packed(text), port)


def check(bench: Bench, foreteller: Foreteller, sent: Sent) -> Happened:
    answer = foreteller.ask(sent)
    happened = what_happens(bench, sent)
    wrong = complaint(answer, happened)
    assert wrong is None, f"{sent}\n{wrong}\n{answer}"
    return happened


@pytest.mark.parametrize(
    ("protocol", "flags"), [(TCP, "S"), (TCP, "A"), (UDP, "S")], ids=["syn", "ack", "udp"]
)
def test_every_packet_fares_as_foretold(
    world: Bench, foreteller: Foreteller, family: Addresses, protocol: int, flags: str
) -> None:
    """R35-R60, R76-R94: verdict, reason, backend, path and what the backend sees."""
    verdicts = set()
    for to in destinations(family, protocol):
        for sent in senders(world, family, to):
            happened = check(world, foreteller, replace(sent, protocol=protocol, flags=flags))
            verdicts.add((happened.verdict, happened.reason))

    expected = {
        (Verdict.PASS, None),
        (Verdict.DROP, Reason.CLUSTER_IP_OUTSIDE),
        (Verdict.DROP, Reason.MARTIAN),
        (Verdict.DROP, Reason.UNALLOCATED),
        (Verdict.REFUSE, Reason.UNKNOWN_PORT),
    }
    if flags == "A":
        expected |= {(Verdict.PASS, Reason.NODE_CONNECTION), (Verdict.DROP, Reason.NO_CONNECTION)}
    else:
        expected |= {
            (Verdict.TRANSLATE, None),
            (Verdict.DROP, Reason.NO_LOCAL_ENDPOINT),
            (Verdict.DROP, Reason.SOURCE_RANGE),
            (Verdict.REFUSE, Reason.NO_ENDPOINT),
        }
    assert verdicts == expected


def test_an_answer_to_the_node_is_foretold(
    world: Bench, foreteller: Foreteller, family: Addresses
) -> None:
    """R94: to a datagram that the node sent from the number of a NodePort."""
    own, peer = Endpoint(packed(family.node), ANY.node_port), at(family.client, 5000)
    world.send(Hook.UPLINK_OUT, "up0", Segment(own, peer, UDP).frame(), own=True)

    answer = check(world, foreteller, Sent(Hook.UPLINK_IN, "up0", peer, own, UDP, by="up0"))
    other = replace(peer, port=5001)
    stranger = check(world, foreteller, Sent(Hook.UPLINK_IN, "up0", other, own, UDP, by="up0"))

    assert (answer.verdict, answer.reason) == (Verdict.PASS, Reason.NODE_CONNECTION)
    assert stranger.verdict is Verdict.TRANSLATE


@pytest.fixture(scope="module")
def masquerading_bench(as_root: None) -> Iterator[Bench]:
    with Bench.up(refusals_per_second=1 << 30, masquerade_all=1, cluster_ip_from_outside=1) as up:
        yield up


def test_masqueraded_packets_fare_as_foretold(
    masquerading_bench: Bench, family: Addresses, protocol: int
) -> None:
    """R56: from pods and from outside; first and later packets of a connection."""
    bench = masquerading_bench
    bench.reset()
    bench.model.world.masquerade_all = bench.model.world.cluster_ip_from_outside = True
    clients = [
        ("up0", Hook.UPLINK_IN, family.client),
        ("up1", Hook.UPLINK_IN, family.other_client),
        ("pod0", Hook.POD_IN, family.pods[0]),
        ("pod1", Hook.POD_IN, family.pods[1]),
        ("pod0", Hook.POD_IN, family.node),
    ]
    actions = set()
    with Foreteller(bench) as foreteller:
        for case, (device, hook, text) in itertools.product(CASES, clients):
            to = dialled(family, case, FrontendKind.CLUSTER_IP, protocol)
            sent = Sent(hook, device, at(text), to, protocol, by=device)
            first, second = check(bench, foreteller, sent), check(bench, foreteller, sent)
            actions |= {(each.verdict, each.action) for each in (first, second)}

    # a program of this node, and everybody else
    assert {(Verdict.TRANSLATE, Action.PASS), (Verdict.TRANSLATE, Action.REDIRECT)} <= actions


@pytest.mark.parametrize("kind", list(FrontendKind), ids=lambda kind: kind.label)
def test_every_backend_that_is_named_gets_connections_and_nobody_else(
    world: Bench, foreteller: Foreteller, family: Addresses, protocol: int, kind: FrontendKind
) -> None:
    """R33, R43-R51: the set, not only a member of it."""
    for case in (ANY, LOCALLY, REMOTE, HERE, SELF):
        to = dialled(family, case, kind, protocol)
        ways = [
            Sent(Hook.UPLINK_IN, "up0", at(family.client), to, protocol, by="up0"),
            Sent(Hook.POD_IN, "pod0", at(family.pods[0]), to, protocol, by="pod0"),
            Sent(Hook.UPLINK_OUT, "up0", at(family.node), to, protocol),
        ]
        if kind == FrontendKind.NODE_PORT:
            ways[2] = replace(ways[2], device="lo")
        for sent in ways:
            answer = foreteller.ask(sent)
            if answer.verdict is not Verdict.TRANSLATE:
                assert kind == FrontendKind.CLUSTER_IP
                continue
            named = {(c.address, c.port) for c in answer.candidates}
            got: set[tuple[str, int]] = set()
            for port in range(41000, 41000 + MANY):
                backend = what_happens(world, sent.from_port(port)).backend
                assert backend is not None
                got.add((format_address(mapped(backend.address)), backend.port))

            assert got == named
            assert sum(c.share_percent for c in answer.candidates) == pytest.approx(100, abs=0.5)


def test_session_affinity_narrows_the_answer_to_one(
    world: Bench, foreteller: Foreteller, family: Addresses, protocol: int
) -> None:
    """R61-R64: by the client's address, while its time lasts and its backend is in the set."""
    to = dialled(family, STICKY, FrontendKind.LOAD_BALANCER, protocol)
    sent = Sent(Hook.UPLINK_IN, "up0", at(family.client), to, protocol, by="up0")
    assert len(foreteller.ask(sent).candidates) == 4

    first = check(world, foreteller, sent)
    for port in range(41000, 41010):
        (candidate,) = foreteller.ask(sent.from_port(port)).candidates
        assert check(world, foreteller, sent.from_port(port)).backend == first.backend
        assert candidate.share_percent == 100
    world.wait(STICKY.affinity_timeout_s + 2)
    assert len(foreteller.ask(sent.from_port(41010)).candidates) == 4

    second = check(world, foreteller, sent.from_port(41011))
    assert second.backend is not None
    world.remove_backend(second.backend)
    assert len(foreteller.ask(sent.from_port(41012)).candidates) == 3


def test_cluster_ips_may_be_open_to_clients_outside(as_root: None) -> None:
    """R42: the option is read from the pinned configuration, not assumed."""
    with Bench.up(cluster_ip_from_outside=1) as open_bench, Foreteller(open_bench) as foreteller:
        family = BY_FAMILY[4]
        unknown = Endpoint(packed(family.cluster_ip.format(ANY.number)), 4444)
        for to in (dialled(family, ANY, FrontendKind.CLUSTER_IP, TCP), unknown):
            sent = Sent(Hook.UPLINK_IN, "up0", at(family.client), to, by="up0")

            assert check(open_bench, foreteller, sent).reason != Reason.CLUSTER_IP_OUTSIDE


# ---- connections ----------------------------------------------------------------------------


class Talk:
    """A client and its backend; every packet of both is foretold."""

    acknowledgements = itertools.count(1001)
    """Never the same: a SYN-ACK that repeats an earlier one looks like a new one (D85)."""

    def __init__(self, bench: Bench, foreteller: Foreteller, sent: Sent) -> None:
        self.bench, self.foreteller, self.sent = bench, foreteller, sent
        self.seen: Happened | None = None  # the client's last packet, as the backend saw it
        self.has_agreed = False
        self.is_reset = False

    def say(self, flags: str) -> Happened:
        happened = check(self.bench, self.foreteller, replace(self.sent, flags=flags))
        if happened.verdict is Verdict.TRANSLATE:
            self.seen = happened
        if flags == "S":
            self.has_agreed = self.is_reset = False
        self.is_reset |= "R" in flags
        return happened

    def answer(self, flags: str = "A") -> Happened | None:
        """A packet of the backend, if there is one, that is of no direct connection (D85)."""
        if self.seen is None or self.is_reset:
            return None
        assert self.seen.backend is not None
        assert self.seen.source is not None
        route = self.bench.model.world.route(self.seen.backend.address)
        device = self.bench.model.world.devices[route or 0]
        reply = Sent(
            Hook.POD_IN if device.is_pod else Hook.UPLINK_IN,
            device.name,
            self.seen.backend,
            self.seen.source,
            self.sent.protocol,
            flags if self.has_agreed else "SA",
            by=device.name,
            numbers=(5001, next(self.acknowledgements)),
        )
        self.has_agreed = True
        return check(self.bench, self.foreteller, reply)


def talks(world: Bench, foreteller: Foreteller, to: Endpoint, protocol: int) -> list[Talk]:
    """From outside, from a pod, from the node; three ports each, so that some collide."""
    family = BY_FAMILY[4 if len(to.address) == 4 else 6]
    way_out = "lo" if to.address == packed(family.node) else "up0"
    ways = [
        Sent(Hook.UPLINK_IN, "up0", at(family.client), to, protocol, by="up0"),
        Sent(Hook.POD_IN, "pod0", at(family.pods[0]), to, protocol, by="pod0"),
        Sent(Hook.UPLINK_OUT, way_out, at(family.node), to, protocol),
    ]
    ports = range(40000, 40003)
    return [Talk(world, foreteller, way.from_port(port)) for way in ways for port in ports]


def test_a_connection_is_followed_and_its_replies_restored(
    world: Bench, foreteller: Foreteller, family: Addresses, protocol: int
) -> None:
    """R34, R121: with the state the datapath keeps of it."""
    for case, kind in itertools.product((REMOTE, HERE, SELF, TWIN), FrontendKind):
        for talk in talks(world, foreteller, dialled(family, case, kind, protocol), protocol):
            if talk.say("S").verdict is not Verdict.TRANSLATE:
                continue
            replied = talk.answer()
            talk.say("A")
            answer = foreteller.ask(replace(talk.sent, flags="A"))

            assert replied is not None
            assert replied.verdict is Verdict.RESTORE
            assert answer.connection is not None
            assert answer.connection.state == ("established" if protocol == TCP else "udp")
            assert not answer.connection.is_evictable
            assert answer.connection.has_reverse_half


def test_conversations_in_any_order_go_as_foretold(
    world: Bench, foreteller: Foreteller, family: Addresses, protocol: int
) -> None:
    """R34, R110, R111, D70-D77: whatever was said before, and however long ago."""
    rng = random.Random(f"{os.environ['VIPBEE_FUZZ_SEED']} {family.family} {protocol}")
    cases = (ANY, HERE, REMOTE, TWIN, SELF, STICKY)
    kinds = (FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER)
    everybody = [
        talk
        for case, kind in itertools.product(cases, kinds)
        for talk in talks(world, foreteller, dialled(family, case, kind, protocol), protocol)
    ]
    happened: set[tuple[Verdict, Reason | None]] = set()

    for _ in range(1000):
        talk = rng.choice(everybody[: rng.choice((8, len(everybody)))])  # some meet often
        event = rng.random()
        if event < 0.6:
            said = talk.say(rng.choice(("S", "S", "A", "PA", "FA", "R")))
            happened.add((said.verdict, said.reason))
        elif event < 0.97:
            talk.answer(rng.choice(("A", "PA", "FA")))
        elif event < 0.995:
            world.wait(rng.choice((2, 12, 122, 242, 7442)))
        elif talk.seen is not None and talk.seen.backend is not None:
            world.remove_backend(talk.seen.backend, gone=rng.random() < 0.5)

    assert (Verdict.TRANSLATE, None) in happened


def test_a_connection_that_is_over_is_told_with_the_reason(
    world: Bench, foreteller: Foreteller, family: Addresses
) -> None:
    to = dialled(family, HERE, FrontendKind.LOAD_BALANCER, TCP)
    talk = Talk(world, foreteller, Sent(Hook.UPLINK_IN, "up0", at(family.client), to, by="up0"))
    talk.say("S")
    talk.answer()
    talk.say("A")
    world.wait(7442)

    (step,) = (s for s in foreteller.ask(talk.sent).steps if s.step == "connection")

    assert "not followed: its time is over" in step.says


def test_paths_are_named_as_they_are(world: Bench, foreteller: Foreteller) -> None:
    """R55, R59, R60: one of each."""
    family = BY_FAMILY[4]

    def path(sent: Sent) -> Path:
        (found,) = {c.path for c in foreteller.ask(sent).candidates}
        return found

    def to(case: Case) -> Endpoint:
        return dialled(family, case, FrontendKind.EXTERNAL_IP, TCP)

    client, pod, node = at(family.client), at(family.pods[0]), at(family.node)
    assert path(Sent(Hook.UPLINK_IN, "up0", client, to(HERE), by="up0")) is Path.STACK
    assert path(Sent(Hook.UPLINK_IN, "up0", client, to(REMOTE), by="up0")) is Path.REDIRECT
    assert path(Sent(Hook.POD_IN, "pod0", pod, to(REMOTE), by="pod0")) is Path.STACK
    assert path(Sent(Hook.POD_IN, "pod0", pod, to(SELF), by="pod0")) is Path.HAIRPIN
    assert path(Sent(Hook.UPLINK_OUT, "up0", node, to(HERE))) is Path.REDIRECT
    assert path(Sent(Hook.UPLINK_OUT, "up0", node, to(HOST))) is Path.LOOPBACK
