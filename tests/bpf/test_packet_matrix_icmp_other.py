# SPDX-License-Identifier: Apache-2.0
"""D63-D67: hop limits, echo to VIPs, strange MTUs and ICMP that is nobody's error."""

from __future__ import annotations

import pytest
from scapy.layers import inet, inet6
from scapy.packet import Raw

from tests.support.packet_bench import Bench
from tests.support.packet_model.answers import TOO_BIG
from tests.support.packet_model.dialogue import from_pod, outside
from tests.support.packet_model.generate import Segment, echo, framed, icmp_error
from tests.support.packet_model.lab import HERE, REMOTE, SELF, V4, V6, Addresses
from tests.support.packet_model.model import Hook
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.wire import UDP, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import Reason


@pytest.mark.parametrize("ttl", [0, 1])
@pytest.mark.parametrize("established", [False, True])
def test_d63_nothing_is_forwarded_with_ttl_0(
    bench: Bench, family: Addresses, protocol: int, ttl: int, established: bool
) -> None:
    """D63: time exceeded to the client (the model checks it), or counted silence."""
    talk = outside(bench, family, REMOTE, protocol=protocol)
    if established:
        talk.establish()
    flags = "A" if established else "S"
    segment = Segment(talk.client, talk.frontend, protocol, flags, ttl=ttl)

    outcome = talk.say_frame(segment.frame())

    assert outcome.reasons == (Reason.TTL_EXPIRED,)


def test_d63_the_client_is_told(bench: Bench, family: Addresses, protocol: int) -> None:
    """D55, D63: traceroute through a Service shows this node."""
    talk = outside(bench, family, REMOTE, protocol=protocol)

    outcome = talk.say_frame(Segment(talk.client, talk.frontend, protocol, ttl=1).frame())

    assert outcome.action is Action.REDIRECT


def test_d63_local_delivery_leaves_the_ttl_to_the_stack(
    bench: Bench, family: Addresses, protocol: int
) -> None:
    """D63"""
    talk = outside(bench, family, HERE, protocol=protocol)

    outcome = talk.say_frame(Segment(talk.client, talk.frontend, protocol, ttl=1).frame())

    assert outcome.action is Action.PASS


@pytest.mark.parametrize("hook", [Hook.UPLINK_IN, Hook.POD_IN])
def test_d64_echo_to_a_vip_is_answered_or_ignored(
    bench: Bench, family: Addresses, hook: Hook
) -> None:
    """D64, R39: never handed to a backend, never passed on to where it could loop."""
    device = "up0" if hook is Hook.UPLINK_IN else "pod0"
    client = packed(family.client if hook is Hook.UPLINK_IN else family.pods[0])

    to_cluster_ip = bench.send(hook, device, echo(client, packed(family.cluster_ip.format(10))))
    to_lb = bench.send(hook, device, echo(client, packed(family.lb(10))))
    to_node = bench.send(hook, device, echo(client, packed(family.node)))

    assert to_cluster_ip.action is Action.DROP
    assert to_lb.action in (Action.DROP, Action.REDIRECT)
    assert (to_node.action, to_node.frame) == (Action.PASS, None)
    assert not any(bench.tables.sizes().values())


@pytest.mark.parametrize("mtu", [0, 68, 575, 1279])
def test_d66_a_tiny_mtu_is_translated_as_it_is(bench: Bench, family: Addresses, mtu: int) -> None:
    """D66: judging it is the sender's business (RFC 8201, min_pmtu)."""
    talk = outside(bench, family, HERE, protocol=UDP)
    talk.establish()
    shown = Segment(talk.frontend, talk.client, UDP)
    kind, code = (3, 4) if family.family == 4 else (2, 0)

    outcome = talk.say_frame(
        icmp_error(
            talk.client.address,
            talk.frontend.address,
            shown.frame(),
            kind=kind,
            code=code,
            extra=mtu,
        )
    )

    assert outcome.action in (Action.PASS, Action.DROP)


@pytest.mark.parametrize("ttl", [1, 6, 255])
def test_d64_an_echo_reply_starts_with_a_ttl_of_its_own(
    bench: Bench, family: Addresses, ttl: int
) -> None:
    """D64: else traceroute never sees the last hop; the model asks for 32 or more."""
    frame = echo(packed(family.client), packed(family.lb(10)), ttl=ttl)

    outcome = bench.send(Hook.UPLINK_IN, "up0", frame)

    assert outcome.action in (Action.REDIRECT, Action.DROP)


def nobody_s_error(family: Addresses) -> list[bytes]:
    """Redirect, router discovery, NDP and echo replies, to a VIP and to the node."""
    frames = []
    for address in (family.lb(10), family.node):
        if family is V4:
            kinds = (0, 5, 9, 10, 13, 14, 17, 255)
            packets = [
                inet.IP(src=V4.client, dst=address) / inet.ICMP(type=kind) / Raw(bytes(28))
                for kind in kinds
            ]
        else:
            messages = (
                inet6.ICMPv6ND_NS(tgt=address),
                inet6.ICMPv6ND_NA(tgt=address),
                inet6.ICMPv6ND_RS(),
                inet6.ICMPv6ND_RA(),
                inet6.ICMPv6ND_Redirect(tgt=address, dst=address),
                inet6.ICMPv6EchoReply(),
            )
            packets = [inet6.IPv6(src=V6.client, dst=address, hlim=255) / m for m in messages]
        frames += [framed(packet) for packet in packets]
    return frames


def test_d67_neighbour_discovery_and_redirects_reach_the_stack(
    bench: Bench, family: Addresses
) -> None:
    """D67"""
    for frame in nobody_s_error(family):
        outcome = bench.send(Hook.UPLINK_IN, "up0", frame)
        assert (outcome.action, outcome.frame) == (Action.PASS, None)


def test_hairpin_with_ttl_1(bench: Bench, family: Addresses, protocol: int) -> None:
    """R59, D63: a hairpin is forwarded by us too."""
    talk = from_pod(bench, family, SELF, protocol=protocol)

    outcome = talk.say_frame(Segment(talk.client, talk.frontend, protocol, ttl=1).frame())

    assert outcome.reasons == (Reason.TTL_EXPIRED,)


@pytest.mark.parametrize("dont_fragment", [True, False], ids=["DF", "no DF"])
@pytest.mark.parametrize("established", [True, False], ids=["established", "new"])
def test_d127_too_large_for_the_way_to_a_remote_backend(
    bench: Bench, protocol: int, dont_fragment: bool, established: bool
) -> None:
    """D52, D127: told with the path's MTU, also without DF: nothing here can fragment."""
    talk = outside(bench, V4, REMOTE, protocol=protocol)
    if established:
        talk.establish()
    flags = "PA" if established else "S"
    large = Segment(talk.client, talk.frontend, protocol, flags, payload=bytes(1500)).ip()
    large.flags = "DF" if dont_fragment else 0

    observed = bench.run(Hook.UPLINK_IN, "up0", framed(large))
    answer = parse(observed.frame)

    assert observed.action is Action.REDIRECT
    assert observed.reasons == {Reason.TOO_BIG: 1}
    assert isinstance(answer, Packet)
    assert (answer.source, answer.destination) == (talk.frontend.address, talk.client.address)
    assert answer.frame[answer.l4 : answer.l4 + 2] == bytes(TOO_BIG[4])
    assert int.from_bytes(answer.frame[answer.l4 + 6 : answer.l4 + 8]) == 1500
