# SPDX-License-Identifier: Apache-2.0
"""Base packets for truncation and mutation: one of every kind, at the hook it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.support.packet_model.answers import PORT_UNREACHABLE, TOO_BIG
from tests.support.packet_model.dialogue import Dialogue, Sender, from_node, from_pod, outside
from tests.support.packet_model.generate import (
    PAYLOAD,
    Segment,
    echo,
    ethernet,
    fragments,
    icmp_error,
)
from tests.support.packet_model.lab import (
    ANY,
    BY_FAMILY,
    HERE,
    HOST,
    NOBODY,
    NOT_HERE,
    RANGED,
    REMOTE,
    SELF,
    STICKY,
    Addresses,
)
from tests.support.packet_model.model import Hook
from tests.support.packet_model.wire import TCP, UDP, Endpoint
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind


@dataclass(frozen=True, slots=True)
class Base:
    name: str
    hook: Hook
    device: str
    frame: bytes


def established(sender: Sender) -> list[Dialogue]:
    """Connections of every path, family and protocol."""
    talks = []
    for family in BY_FAMILY.values():
        for protocol in (TCP, UDP):
            for case in (REMOTE, HERE):
                talks.append(outside(sender, family, case, protocol=protocol))
            talks.append(outside(sender, family, REMOTE, FrontendKind.NODE_PORT, protocol))
            for case in (REMOTE, SELF):
                talks.append(from_pod(sender, family, case, protocol=protocol))
            for case in (REMOTE, HERE, HOST):
                talks.append(from_node(sender, family, case, protocol=protocol))
            talks.append(from_node(sender, family, HERE, FrontendKind.NODE_PORT, protocol))
    for talk in talks:
        talk.establish()
    return talks


def corpus(talks: list[Dialogue]) -> list[Base]:
    bases = []
    for number, talk in enumerate(talks):
        bases += _of_connection(f"connection {number}", talk)
    for family in BY_FAMILY.values():
        bases += _without_connection(family)
    return bases


def _of_connection(name: str, talk: Dialogue) -> Iterator[Base]:
    entry = talk.way_in
    there = Segment(talk.client, talk.frontend, talk.protocol, "PA", payload=PAYLOAD)
    back = Segment(talk.backend, talk.shown_client, talk.protocol, "PA", payload=PAYLOAD)
    router = packed(BY_FAMILY[there.family].router)
    kind, code = PORT_UNREACHABLE[there.family]
    big, big_code = TOO_BIG[there.family]
    sent = replace(there, source=talk.shown_client, destination=talk.backend)
    shown = replace(there, source=talk.frontend, destination=talk.client)
    yield Base(f"{name}: client", *entry, there.frame())
    yield Base(f"{name}: backend", *talk.way_back, back.frame())
    for source in (talk.backend.address, router):
        frame = icmp_error(
            source, talk.shown_client.address, sent.frame(), kind=kind, code=code, quote_l4=None
        )
        yield Base(f"{name}: unreachable", *talk.way_back, frame)
    frame = icmp_error(
        talk.client.address,
        talk.frontend.address,
        shown.frame(),
        kind=big,
        code=big_code,
        extra=1280,
    )
    yield Base(f"{name}: too big", *entry, frame)
    for part in fragments(replace(there, payload=bytes(range(90))), 48):
        yield Base(f"{name}: client's fragment", *entry, part)
    for part in fragments(replace(back, payload=bytes(range(90))), 48):
        yield Base(f"{name}: backend's fragment", *talk.way_back, part)


def _without_connection(family: Addresses) -> Iterator[Base]:
    client = Endpoint(packed(family.client), 50000)
    pod = Endpoint(packed(family.pods[0]), 50000)
    node = Endpoint(packed(family.node), 50000)
    entries = (
        (Hook.UPLINK_IN, "up0", client),
        (Hook.POD_IN, "pod0", pod),
        (Hook.UPLINK_OUT, "up0", node),
    )
    for hook, device, source in entries:
        for protocol in (TCP, UDP):
            for case in (ANY, NOBODY, NOT_HERE, RANGED, STICKY):
                for kind in FrontendKind:
                    to = outside(None, family, case, kind, protocol).frontend  # type: ignore[arg-type]
                    frame = Segment(source, to, protocol).frame()
                    yield Base(f"new: {case.number} {kind.label}", hook, device, frame)
            for address in (
                family.node,
                family.elsewhere,
                family.pods[1],
                family.cluster_ip.format(10),
            ):
                to = Endpoint(packed(address), 4444)
                yield Base("nobody's port", hook, device, Segment(source, to, protocol).frame())
        for address in (family.node, family.lb(10), family.cluster_ip.format(10), family.elsewhere):
            yield Base("echo", hook, device, echo(source.address, packed(address)))
        yield Base("arp", hook, device, ethernet(0x0806, bytes(28)))
        yield Base("lldp", hook, device, ethernet(0x88CC, bytes(40)))
