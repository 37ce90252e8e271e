# SPDX-License-Identifier: Apache-2.0
"""A client and a backend that talk through the hooks, for the model alone or beside the C.

`send` is `Bench.send` or `ModelOnly.send`; the dialogue knows which hook each packet meets
and what the other side gets to see, so tests read as conversations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import IFINDEXES, Addresses, Case, dialled, lab_world
from tests.support.packet_model.model import Hook, Model
from tests.support.packet_model.outcome import Action, Outcome
from tests.support.packet_model.tracking import Flow, Zone
from tests.support.packet_model.wire import TCP, Endpoint, Packet, parse
from tests.support.packet_model.world import packed
from vipbee.abi import FrontendKind


class Sender(Protocol):
    model: Model
    now: int

    def send(self, hook: Hook, device: str, frame: bytes) -> Outcome: ...

    def wait(self, seconds: int) -> None: ...


@dataclass
class ModelOnly:
    """The model in place of a datapath: it takes what the rules prefer."""

    model: Model = field(default_factory=lambda: Model(lab_world()))
    now: int = 100_000

    def send(self, hook: Hook, device: str, frame: bytes) -> Outcome:
        return self.model.step(hook, IFINDEXES[device], frame, self.now)

    def wait(self, seconds: int) -> None:
        self.now += seconds


@dataclass
class Dialogue:
    """One client talking to one frontend; the backend answers from what it was sent."""

    sender: Sender
    client: Endpoint
    frontend: Endpoint
    protocol: int = TCP
    from_pod: str | None = None  # device of a pod that is the client
    from_node: str | None = None  # device by which packets of a program of the node leave
    seen: Packet | None = None  # the client's last packet, as the backend saw it

    def say(self, flags: str = "S", **changes: object) -> Outcome:
        """A packet of the client."""
        segment = Segment(self.client, self.frontend, self.protocol, flags=flags)
        return self.say_frame(replace(segment, **changes).frame())

    def say_frame(self, frame: bytes) -> Outcome:
        outcome = self.sender.send(*self.way_in, frame)
        if outcome.frame is not None:
            seen = parse(outcome.frame)
            assert isinstance(seen, Packet)
            self.seen = seen
        return outcome

    @property
    def way_in(self) -> tuple[Hook, str]:
        """Where the client's packets meet a hook."""
        if self.from_node:
            return Hook.UPLINK_OUT, self.from_node
        return (Hook.POD_IN, self.from_pod) if self.from_pod else (Hook.UPLINK_IN, "up0")

    @property
    def backend(self) -> Endpoint:
        assert self.seen is not None
        return self.seen.dialled

    @property
    def shown_client(self) -> Endpoint:
        """What the backend takes for the client."""
        assert self.seen is not None
        return self.seen.client

    def answer(self, flags: str = "SA", **changes: object) -> Outcome:
        """A packet of the backend; must come out as from the frontend to the client."""
        segment = Segment(self.backend, self.shown_client, self.protocol, flags=flags)
        segment = replace(segment, **changes)
        outcome = self.answer_frame(segment.frame())
        if outcome.frame is not None:
            is_forwarded = outcome.action is Action.REDIRECT and not self.from_node
            ttl = segment.ttl - is_forwarded
            expected = replace(
                segment, source=self.frontend, destination=self.client, ttl=ttl
            ).frame()
            assert outcome.frame == expected, "the client sees another packet than was sent"
        return outcome

    def answer_frame(self, frame: bytes) -> Outcome:
        return self.sender.send(*self.way_back, frame)

    @property
    def way_back(self) -> tuple[Hook, str]:
        """Where the backend's packets meet a hook that restores them."""
        flow = self.flow
        if not flow.redirected and self.from_pod:
            return Hook.POD_OUT, self.from_pod
        if not flow.redirected:
            return Hook.UPLINK_OUT, "lo" if self.from_node else "up0"
        ifindex = self.sender.model.world.route(flow.backend.address)
        hook = Hook.POD_IN if flow.zone is Zone.POD else Hook.UPLINK_IN
        return hook, self.sender.model.world.devices[ifindex or 0].name

    @property
    def flow(self) -> Flow:
        """The model's connection of this dialogue."""
        known = self.sender.model.tracker.forward
        zones = tuple(Zone) if self.from_node else (Zone.POD if self.from_pod else Zone.OUTSIDE,)
        ends = (self.protocol, self.client, self.frontend)
        return next(known[zone, *ends] for zone in zones if (zone, *ends) in known)

    def establish(self) -> None:
        """SYN, SYN-ACK, ACK; or three datagrams, so that both sides are known to live."""
        self.say("S", sequence=1000)
        self.answer("SA", sequence=5000, acknowledgement=1001)
        self.say("A", sequence=1001, acknowledgement=5001)

    def close(self) -> None:
        self.say("FA", sequence=1001, acknowledgement=5001)
        self.answer("FA", sequence=5001, acknowledgement=1002)
        self.say("A", sequence=1002, acknowledgement=5002)


def outside(
    sender: Sender,
    family: Addresses,
    case: Case,
    kind: FrontendKind = FrontendKind.LOAD_BALANCER,
    protocol: int = TCP,
    port: int = 40000,
) -> Dialogue:
    """A client outside the cluster."""
    client = Endpoint(packed(family.client), port)
    return Dialogue(sender, client, dialled(family, case, kind, protocol), protocol)


def from_pod(
    sender: Sender,
    family: Addresses,
    case: Case,
    kind: FrontendKind = FrontendKind.CLUSTER_IP,
    protocol: int = TCP,
    port: int = 40000,
) -> Dialogue:
    """The pod behind pod0."""
    client = Endpoint(packed(family.pods[0]), port)
    return Dialogue(sender, client, dialled(family, case, kind, protocol), protocol, "pod0")


def from_node(
    sender: Sender,
    family: Addresses,
    case: Case,
    kind: FrontendKind = FrontendKind.CLUSTER_IP,
    protocol: int = TCP,
    port: int = 40000,
) -> Dialogue:
    """A program of the node; NodePorts are on its own address, so by loopback."""
    client = Endpoint(packed(family.node), port)
    device = "lo" if kind == FrontendKind.NODE_PORT else "up0"
    to = dialled(family, case, kind, protocol)
    return Dialogue(sender, client, to, protocol, from_node=device)
