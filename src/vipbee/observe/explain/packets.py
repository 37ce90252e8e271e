# SPDX-License-Identifier: Apache-2.0
"""What the packet hooks do: enter() and leave() of bpf/tc.bpf.c, leave_for_vip(), from_client()
and from_node(), in their order. What opens a connection is in opening.py.
"""

from __future__ import annotations

from vipbee.abi import AddressFlag, ConntrackFlag, Reason
from vipbee.address import format_address, format_endpoint
from vipbee.observe.explain import tracked
from vipbee.observe.explain.addresses import is_loopback
from vipbee.observe.explain.frontends import describe, find_for_packet, why_none
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.opening import open_connection
from vipbee.observe.explain.question import TCP, UDP, Question
from vipbee.observe.explain.records import Flow
from vipbee.observe.explain.senders import Sender
from vipbee.observe.explain.story import Story
from vipbee.observe.explain.view import AnswerView, Layer, Role, Step

_VIP = AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL
_PRIVILEGED_PORTS = 1024
_HOOK = {
    Role.OUTSIDE: "uplink_in",
    Role.POD: "pod_in",
    Role.NODE: "uplink_out",
    Role.FORWARDED: "uplink_out",
}


def at_packets(question: Question, sender: Sender, lookups: Lookups) -> AnswerView:
    """What a packet of this sender meets, up to where it leaves."""
    story = Story(lookups, Layer.PACKETS, sender.role, _HOOK[sender.role])
    story.say(Step.SENDER, sender.why)
    if not lookups.settings.packet_lb:
        return story.passes("the packet layer is off: only sockets are served")
    if sender.address is None:
        return story.passes("this node has no address of that family to send from")
    if sender.role in (Role.OUTSIDE, Role.POD):
        answer = _enter(story, question, sender, lookups)
        if answer is not None:
            return answer
    return _leave(story, question, sender, lookups)


def _enter(story: Story, question: Question, sender: Sender, lookups: Lookups) -> AnswerView | None:
    """None: to the stack as it is, so it may be met again where it leaves."""
    flags = lookups.address_flags(question.address)
    if is_loopback(question.address):
        return story.drops(Reason.MARTIAN, "dropped: nothing from a device goes to loopback", "R91")
    if not flags:
        return None
    if question.protocol not in (TCP, UDP):
        return _other_protocol(story, flags)
    is_number = lookups.settings.is_node_port_number(question.port)
    if flags & _VIP or is_number:
        return _from_client(story, question, sender, lookups)
    if question.port >= _PRIVILEGED_PORTS:
        return _reply(story, question, sender, lookups, (sender.zone,), is_redirected=True)
    return None


def _leave(story: Story, question: Question, sender: Sender, lookups: Lookups) -> AnswerView:
    flags = lookups.address_flags(question.address)
    is_own_way_out = sender.role in (Role.NODE, Role.FORWARDED)
    if is_own_way_out and flags & _VIP:
        return _leave_for_vip(story, question, sender, lookups)
    if not flags and lookups.is_in_service_cidr(question.address):
        story.moves_to("uplink_out")
        story.say(Step.FRONTEND, *_flat(why_none(question, lookups)))
        says = "dropped where it would leave by an uplink, or it would go round outside"
        return story.drops(Reason.UNALLOCATED, says, "R38")
    if (
        is_own_way_out
        and flags & AddressFlag.OWN
        and not flags & AddressFlag.HOST_ONLY
        and lookups.settings.is_node_port_number(question.port)
        and question.protocol in (TCP, UDP)
        and _is_own(sender, lookups)
    ):
        return _from_client(story, question, sender, lookups)
    answer = _reply(story, question, sender, lookups, ("outside", "pod"), is_redirected=False)
    if answer is not None:
        return answer
    frontend = find_for_packet(question, lookups)
    if frontend is not None:  # another node's NodePort, or no program met it on its way in
        story.say(Step.FRONTEND, *_flat(describe(frontend, lookups)))
        return story.passes("passes untouched: no hook is on its way here that serves it", "R89")
    story.say(Step.FRONTEND, *_flat(why_none(question, lookups)))
    return story.passes("passes untouched: not ours", "R40")


def _is_own(sender: Sender, lookups: Lookups) -> bool:
    """`is_own()`: of a program of this node, not forwarded for somebody."""
    assert sender.address is not None
    return bool(lookups.address_flags(sender.address) & AddressFlag.SNAT)


def _leave_for_vip(
    story: Story, question: Question, sender: Sender, lookups: Lookups
) -> AnswerView:
    assert sender.address is not None
    flags = lookups.address_flags(question.address)
    if not _is_own(sender, lookups):
        whose = f"{format_address(sender.address)} is no address of this node's devices"
        story.say(Step.SOURCE, f"forwarded: {whose}", "R37")
        if flags & AddressFlag.CLUSTER_IP:
            says = "dropped: nothing of others leaves the node for a ClusterIP"
            return story.drops(Reason.CLUSTER_IP_OUTSIDE, says, "R37", "R42")
        return story.passes("passes untouched: it is not served on this way", "R40")
    if question.protocol not in (TCP, UDP):
        return _other_protocol(story, flags)
    return _from_client(story, question, sender, lookups)


def _other_protocol(story: Story, flags: int) -> AnswerView:
    if flags & AddressFlag.CLUSTER_IP:
        says = "dropped: a ClusterIP is there for TCP and UDP only"
        return story.drops(Reason.PROTOCOL, says, "R16", "R37")
    return story.passes("passes untouched: neither TCP nor UDP", "R16")


def _from_client(story: Story, question: Question, sender: Sender, lookups: Lookups) -> AnswerView:
    """A known connection is followed, else one may be opened."""
    flow = _flow_of(question, sender)
    if flow is None:
        story.say(Step.CONNECTION, "without a port of the sender: taken to begin a connection")
        return open_connection(story, question, sender, lookups)
    followed = _follow(flow, question, sender, lookups)
    if followed is not None and followed.is_foreign:
        says = "dropped: a connection of these addresses is known, and its client is met elsewhere"
        return story.drops(Reason.MARTIAN, says)
    if followed is None:
        story.say(Step.CONNECTION, f"none is known from port {flow.source_port}")
        zone = "outside" if sender.role is Role.NODE else sender.zone
        is_number = lookups.settings.is_node_port_number(question.port)
        if is_number and tracked.answers_the_node(lookups, zone, flow):
            says = "passes untouched: it answers a datagram that this node sent from there"
            return story.passes(says, "R94", reason=Reason.NODE_CONNECTION)
        return open_connection(story, question, sender, lookups)
    view = tracked.view_of(followed.connection, lookups)
    story.notes(view)
    halves = "" if view.has_reverse_half else ", its reverse half is evicted"
    known = f"one is known, {view.state}, to {view.backend}, {view.age_seconds} s old{halves}"
    if followed.over is not None:
        story.say(Step.CONNECTION, f"{known}; not followed: {followed.over}", "R111")
        return open_connection(story, question, sender, lookups)
    story.say(Step.CONNECTION, known, "R34" if question.protocol == TCP else "R110")
    candidate = tracked.candidate_of(followed.connection, lookups)
    return story.translates([candidate], "follows its connection, whatever the tables say now")


def _follow(
    flow: Flow, question: Question, sender: Sender, lookups: Lookups
) -> tracked.Followed | None:
    """`from_client()` and `from_node()`; masquerading may keep it in the other zone (R56)."""
    first = question.is_first
    zones = ("outside", "pod")
    if sender.role is Role.NODE:
        whose = ConntrackFlag.NODE_CLIENT
        found = tracked.follow(lookups, zones, flow, is_first=first, whose=whose)
        return None if found is not None and found.is_foreign else found
    found = tracked.follow(lookups, (sender.zone,), flow, is_first=first)
    if found is not None and (found.is_foreign or found.over is None):
        return found
    if lookups.address_flags(question.address) & AddressFlag.CLUSTER_IP:
        others = [zone for zone in zones if zone != sender.zone]
        whose = ConntrackFlag.CROSSING
        crossing = tracked.follow(lookups, others, flow, is_first=first, whose=whose)
        if crossing is not None and not crossing.is_foreign:
            return crossing
    return found


def _reply(
    story: Story,
    question: Question,
    sender: Sender,
    lookups: Lookups,
    zones: tuple[str, ...],
    *,
    is_redirected: bool,
) -> AnswerView | None:
    """`from_backend()`; None: it is no reply of a connection."""
    flow = _flow_of(question, sender)
    if flow is None:
        return None
    for zone in zones:
        reply = tracked.find_reply(
            lookups, zone, flow, is_redirected=is_redirected, is_first=question.is_first
        )
        if reply is None:
            continue
        if reply.passes is not None:
            story.say(Step.CONNECTION, f"not taken for a reply: {reply.passes}", "D85")
            continue
        if not is_redirected:
            story.moves_to("uplink_out" if zone == "outside" else "pod_out")
        original = reply.half.original
        client = format_endpoint(original.source, original.source_port)
        frontend = format_endpoint(original.destination, original.destination_port)
        if reply.connection is not None:
            story.notes(tracked.view_of(reply.connection, lookups))
        story.say(Step.CONNECTION, f"it is what the backend of {client} answers")
        return story.restores(f"shown to {client} as from {frontend}", "R121")
    return None


def _flow_of(question: Question, sender: Sender) -> Flow | None:
    if sender.port is None or sender.address is None:
        return None
    return Flow(sender.address, sender.port, question.address, question.port, question.protocol)


def _flat(said: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    return said[0], *said[1]
