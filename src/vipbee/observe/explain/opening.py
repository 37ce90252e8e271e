# SPDX-License-Identifier: Apache-2.0
"""A packet that belongs to no connection: bpf/packet_decide.h and open_connection.h, in order."""

from __future__ import annotations

from vipbee.abi import AddressFlag, AffinityClient, FrontendKind, Reason
from vipbee.address import format_address
from vipbee.observe.explain.addresses import martian_source
from vipbee.observe.explain.choice import Client, choose, say_policy
from vipbee.observe.explain.frontends import describe, find_for_packet, why_none
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.paths import candidates
from vipbee.observe.explain.question import TCP, Question
from vipbee.observe.explain.records import Frontend
from vipbee.observe.explain.senders import Sender
from vipbee.observe.explain.story import Story
from vipbee.observe.explain.view import AnswerView, Role, Step

_SHOWN_RANGES = 4
_OUTSIDE_CLUSTER_IP = "dropped: ClusterIPs are not served to clients outside"


def open_connection(
    story: Story, question: Question, sender: Sender, lookups: Lookups
) -> AnswerView:
    """`try_to_choose()`, then the path."""
    flags = lookups.address_flags(question.address)
    frontend = find_for_packet(question, lookups)
    is_closed_here = sender.role is Role.OUTSIDE and not lookups.settings.cluster_ip_from_outside
    if frontend is None:
        return _no_frontend(story, question, sender, lookups, is_closed_here=is_closed_here)
    says, rules = describe(frontend, lookups)
    story.say(Step.FRONTEND, says, *rules)
    if frontend.kind == FrontendKind.CLUSTER_IP and is_closed_here:
        return story.drops(Reason.CLUSTER_IP_OUTSIDE, _OUTSIDE_CLUSTER_IP, "R42")
    if question.protocol == TCP and not question.is_first:
        return _stray_segment(story, sender, flags)
    martian = _martian(question, sender, lookups)
    if martian is not None:
        return story.drops(Reason.MARTIAN, f"dropped: {martian}")
    if frontend.has_source_ranges and not _is_in_ranges(story, frontend, sender, lookups):
        says = "dropped: the source is in none of loadBalancerSourceRanges"
        return story.drops(Reason.SOURCE_RANGE, says, "R80")
    is_local = _uses_local_set(frontend, sender)
    whom = "clients outside" if sender.role is Role.OUTSIDE else "clients inside"
    if frontend.kind == FrontendKind.CLUSTER_IP:
        whom = "everybody who asks a ClusterIP"
    say_policy(story, frontend, lookups, is_local=is_local, whom=whom)
    if not (frontend.local if is_local else frontend.cluster).size:
        return _empty(story, frontend, question, sender)
    assert sender.address is not None
    client = Client(
        AffinityClient.ADDRESS, sender.address, f"address, here {format_address(sender.address)}"
    )
    likely = choose(story, frontend, client, lookups, is_local=is_local)
    if not likely:
        return story.refuses(Reason.TABLE_RACE, "the tables are being changed now: ask again")
    found = candidates(story, likely, sender, question.address, lookups)
    if not any(each.seen_as for each in found):
        says = "dropped: no device on the way has an address of that family"
        return story.drops(Reason.SNAT_NO_ADDRESS, says, "R60")
    says = "translated, with the sender's port if that is free; replies show the VIP"
    return story.translates(found, says, "R121", "R124")


def _no_frontend(
    story: Story,
    question: Question,
    sender: Sender,
    lookups: Lookups,
    *,
    is_closed_here: bool,
) -> AnswerView:
    says, rules = why_none(question, lookups)
    story.say(Step.FRONTEND, says, *rules)
    if not lookups.address_flags(question.address) & AddressFlag.CLUSTER_IP:
        return story.passes("passes untouched", "R40")
    if is_closed_here:
        return story.drops(Reason.CLUSTER_IP_OUTSIDE, _OUTSIDE_CLUSTER_IP, "R42")
    martian = _martian(question, sender, lookups)
    if martian is not None:
        return story.drops(Reason.MARTIAN, f"dropped: {martian}")
    says = f"refused with {_refusal(question)}: no Service defines that port of a ClusterIP"
    return story.refuses(Reason.UNKNOWN_PORT, says, "R37")


def _martian(question: Question, sender: Sender, lookups: Lookups) -> str | None:
    """The node's own packets are not judged by their source."""
    assert sender.address is not None
    if sender.role is Role.NODE:
        return None
    return martian_source(lookups, sender.address, question.address)


def _stray_segment(story: Story, sender: Sender, flags: int) -> AnswerView:
    """TCP, and not the SYN of a new connection."""
    is_cluster_ip = flags & AddressFlag.CLUSTER_IP
    if not flags & AddressFlag.NODE and (sender.role is not Role.NODE or is_cluster_ip):
        says = "dropped: no SYN, and of no connection that is known"
        return story.drops(Reason.NO_CONNECTION, says, "R36")
    says = "passes untouched: no SYN, so of a connection older than the Service, or not through it"
    return story.passes(says, "R36", "R94", reason=Reason.NODE_CONNECTION)


def _is_in_ranges(story: Story, frontend: Frontend, sender: Sender, lookups: Lookups) -> bool:
    """`source_allowed()`."""
    assert sender.address is not None
    ranges = lookups.source_ranges(frontend.service_id)
    admits = [each for each in ranges if each.contains(sender.address)]
    shown = format_address(sender.address)
    if admits:
        story.say(Step.SOURCE_RANGES, f"{shown} is in {admits[-1]}", "R80")
        return True
    some = ", ".join(map(str, ranges[:_SHOWN_RANGES]))
    more = f" and {len(ranges) - _SHOWN_RANGES} more" if len(ranges) > _SHOWN_RANGES else ""
    story.say(Step.SOURCE_RANGES, f"{shown} is not in {some or 'any'}{more}", "R80")
    return False


def _uses_local_set(frontend: Frontend, sender: Sender) -> bool:
    """`packet_uses_local_set()`."""
    is_bound = sender.role is Role.OUTSIDE or frontend.kind == FrontendKind.CLUSTER_IP
    return frontend.is_policy_local and is_bound


def _empty(story: Story, frontend: Frontend, question: Question, sender: Sender) -> AnswerView:
    """`refuse_empty()`."""
    if not frontend.cluster.size:
        says = f"refused with {_refusal(question)}: no endpoint of that port is ready, anywhere"
        return story.refuses(Reason.NO_ENDPOINT, says, "R35")
    says = "dropped: policy Local, and endpoints are on other nodes only"
    return story.drops(
        Reason.NO_LOCAL_ENDPOINT, says, "R49" if sender.role is Role.OUTSIDE else "R44"
    )


def _refusal(question: Question) -> str:
    return "a RST" if question.protocol == TCP else "ICMP port unreachable"
