# SPDX-License-Identifier: Apache-2.0
"""The whole answer: who asks, what each layer makes of it, and what the agent said about it."""

from __future__ import annotations

import re

from vipbee.abi import AddressFlag
from vipbee.address import format_address
from vipbee.observe.explain.frontends import (
    find_for_packet,
    find_for_socket,
    summarise,
    view_of,
)
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.packets import at_packets
from vipbee.observe.explain.question import PROTOCOL_NAMES, Question
from vipbee.observe.explain.records import Frontend
from vipbee.observe.explain.senders import Sender, find_senders
from vipbee.observe.explain.sockets import at_sockets
from vipbee.observe.explain.view import AnswerView, ExplainView, Role, SenderView
from vipbee.observe.status import ProblemView


def explain(question: Question, lookups: Lookups) -> ExplainView:
    """Answer from the tables as they are; raise UsageError if the question makes no sense."""
    senders = find_senders(question, lookups)
    is_node = any(sender.role is Role.NODE for sender in senders)
    frontend = find_for_socket(question, lookups, is_node=is_node)
    if frontend is None:
        frontend = find_for_packet(question, lookups)
    return ExplainView(
        address=format_address(question.address),
        port=question.port,
        protocol=PROTOCOL_NAMES[question.protocol],
        sender=_sender_view(senders),
        frontend=view_of(frontend, lookups) if frontend is not None else None,
        summary=summarise(question, frontend, lookups),
        problems=_problems(question, frontend, lookups),
        answers=_answers(question, senders, lookups),
    )


def _answers(question: Question, senders: list[Sender], lookups: Lookups) -> list[AnswerView]:
    found = []
    for sender in senders:
        at_socket = at_sockets(question, sender, lookups)
        if at_socket is not None:
            found.append(at_socket)
        found.append(at_packets(question, sender, lookups))
    return found


def _sender_view(senders: list[Sender]) -> SenderView:
    first = senders[0]
    return SenderView(
        address=format_address(first.address) if first.address is not None else None,
        port=first.port,
        device=first.device.name if first.device is not None else None,
        role=first.role if len(senders) == 1 else None,
    )


def _problems(question: Question, frontend: Frontend | None, lookups: Lookups) -> list[ProblemView]:
    """Reports about the Service, or that name the address: contested, refused, skipped."""
    services = {frontend.service_id} if frontend is not None else set()
    if lookups.address_flags(question.address) & (AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL):
        services |= {each.service_id for each in lookups.frontends_at(question.address)}
    objects = {f"Service {lookups.service(service_id)}" for service_id in services}
    shown = re.escape(format_address(question.address))
    # not 10.96.0.1 in 10.96.0.10, nor in a longer IPv6 address
    named = re.compile(rf"(?<![0-9a-f.:]){shown}(?![0-9a-f.])(?!:[0-9a-f]*:)", re.IGNORECASE)
    return [
        problem
        for problem in lookups.problems()
        if problem.object in objects or named.search(problem.message)
    ]
