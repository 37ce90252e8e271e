# SPDX-License-Identifier: Apache-2.0
"""What connect(2) and sendmsg(2) do with an address: bpf/sock_decide.h, in its order."""

from __future__ import annotations

from vipbee.abi import AddressFlag, AffinityClient, FrontendKind, Reason
from vipbee.observe.affinity_clients import netns_key
from vipbee.observe.explain.choice import Client, choose, say_policy
from vipbee.observe.explain.frontends import describe, find_for_socket, why_none
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.paths import candidate
from vipbee.observe.explain.question import SCTP, TCP, UDP, Question
from vipbee.observe.explain.records import Frontend
from vipbee.observe.explain.senders import Sender
from vipbee.observe.explain.story import Story
from vipbee.observe.explain.view import AnswerView, Layer, Path, Role, Step

_WHOM = {
    Role.NODE: "programs of this node, and of pods in its network namespace",
    Role.POD: "programs of that pod, if its sockets are this kernel's: not of a VM, Kata, gVisor",
}


def at_sockets(question: Question, sender: Sender, lookups: Lookups) -> AnswerView | None:
    """`decide()`; None where no socket of this node is involved."""
    if sender.role not in _WHOM:
        return None
    story = Story(lookups, Layer.SOCKETS, sender.role, "connect, sendmsg")
    story.say(Step.SENDER, _WHOM[sender.role])
    if not lookups.settings.has_socket_hooks:
        return story.passes("the socket layer is off: packets are all there is")
    if question.protocol == SCTP:
        return story.passes("SCTP is not balanced", "R16")
    is_node = sender.role is Role.NODE
    frontend = find_for_socket(question, lookups, is_node=is_node)
    if frontend is None:
        return _no_frontend(story, question, lookups)
    says, rules = describe(frontend, lookups)
    story.say(Step.FRONTEND, says, *rules)
    if question.protocol == UDP:
        flow = "a socket that asked there before stays with its backend while that serves"
        story.say(Step.FLOW, flow, "R110")
    left = _left_to_packets(frontend, sender, lookups)
    if left:
        return story.passes(f"left to the packet layer: {left[0]}", left[1], left_to_packets=True)
    is_local = _uses_local_set(frontend)
    say_policy(story, frontend, lookups, is_local=is_local, whom="clients inside")
    if not (frontend.local if is_local else frontend.cluster).size:
        return _refused(story, frontend, question, lookups)
    likely = choose(story, frontend, _client(sender, lookups), lookups, is_local=is_local)
    if not likely:
        return story.refuses(
            Reason.TABLE_RACE,
            "the tables are being changed right now: ask again",
            errno=_errno(question, lookups, is_refusal=True),
        )
    when = "connect(2)" if question.protocol == TCP else "connect(2) or sendmsg(2)"
    seen = [] if sender.address is None else [sender.address]
    return story.translates(
        [candidate(each, Path.SOCKET, seen) for each in likely],
        f"{when} goes to the backend itself; getpeername(2) and recvmsg(2) show the VIP",
        "R121",
    )


def _uses_local_set(frontend: Frontend) -> bool:
    """`uses_local_set()`: dialled from inside, only a ClusterIP obeys policy Local."""
    return frontend.kind == FrontendKind.CLUSTER_IP and frontend.is_policy_local


def _left_to_packets(
    frontend: Frontend, sender: Sender, lookups: Lookups
) -> tuple[str, str] | None:
    """`is_left_to_packets()`: why, and the rule."""
    if not lookups.settings.packet_lb:
        return None
    is_masqueraded = (
        lookups.settings.masquerade_all
        and frontend.kind == FrontendKind.CLUSTER_IP
        and frontend.cluster.size
        and sender.role is not Role.NODE
    )
    if is_masqueraded:
        return "masquerade-all: only a packet can be given an address of the node", "R56"
    if frontend.has_source_ranges:
        return "only a packet's source can be compared with the source ranges", "R80"
    if _uses_local_set(frontend) and not frontend.local.size and frontend.cluster.size:
        return "no endpoint is on this node: a SYN that is dropped may succeed later", "R44"
    return None


def _client(sender: Sender, lookups: Lookups) -> Client:
    """Sockets are known by their network namespace."""
    cookie = lookups.settings.node_netns_cookie
    if sender.role is not Role.NODE or not cookie:
        return Client(AffinityClient.NETNS, None, "network namespace")
    return Client(AffinityClient.NETNS, netns_key(cookie), "network namespace, here the node's")


def _no_frontend(story: Story, question: Question, lookups: Lookups) -> AnswerView:
    says, rules = why_none(question, lookups)
    story.say(Step.FRONTEND, says, *rules)
    if not lookups.address_flags(question.address) & AddressFlag.CLUSTER_IP:
        return story.passes("not translated: the address is dialled as it is", "R40")
    errno = _errno(question, lookups, is_refusal=True)
    says = f"refused with {errno}: no Service defines that port of a ClusterIP"
    return story.refuses(Reason.UNKNOWN_PORT, says, "R37", errno=errno)


def _refused(story: Story, frontend: Frontend, question: Question, lookups: Lookups) -> AnswerView:
    """`refuse_new()`."""
    if not frontend.cluster.size:
        errno = _errno(question, lookups, is_refusal=True)
        says = f"refused with {errno}: no endpoint of that port is ready, anywhere"
        return story.refuses(Reason.NO_ENDPOINT, says, "R35", errno=errno)
    errno = _errno(question, lookups, is_refusal=False)
    says = f"fails with {errno}: policy Local, and endpoints are on other nodes only"
    return story.refuses(Reason.NO_LOCAL_ENDPOINT, says, "R44", errno=errno)


def _errno(question: Question, lookups: Lookups, *, is_refusal: bool) -> str:
    """`reject()` of bpf/sock_connect.h."""
    if lookups.settings.has_set_retval:
        return "ECONNREFUSED" if is_refusal else "EHOSTUNREACH"
    return "ECONNREFUSED" if is_refusal and question.protocol == TCP else "EPERM"
