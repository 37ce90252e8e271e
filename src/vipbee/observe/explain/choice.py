# SPDX-License-Identifier: Apache-2.0
"""Which backends a new connection may get, and with which odds: bpf/backend.h."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from vipbee.abi import AffinityClient, BackendFlag
from vipbee.address import format_endpoint
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.records import Affinity, Backend, Frontend
from vipbee.observe.explain.story import Story
from vipbee.observe.explain.view import Step

_NS = 1_000_000_000


class Client(NamedTuple):
    """By what session affinity knows a client again."""

    kind: AffinityClient
    key: bytes | None  # 16 bytes; None: not known here
    shown: str  # "the address 192.0.2.7"


class Likely(NamedTuple):
    backend: Backend
    share_percent: float


def choose(
    story: Story, frontend: Frontend, client: Client, lookups: Lookups, *, is_local: bool
) -> list[Likely]:
    """Tell what is chosen from; empty if the tables contradict themselves just now."""
    if frontend.affinity_timeout_s:
        remembered = _remembered(story, frontend, client, lookups, is_local=is_local)
        if remembered is not None:
            return [Likely(remembered, 100.0)]
    run = frontend.local if is_local else frontend.cluster
    found = Counter(lookups.slots(run))
    likely = []
    for backend_id, slots in found.items():
        backend = lookups.backend(backend_id)
        if backend is not None and backend.service_id == frontend.service_id:
            likely.append(Likely(backend, round(100 * slots / run.size, 1)))
    if len(likely) == 1:
        story.say(Step.CHOICE, "the only backend of that set", "R33")
    elif likely:
        story.say(Step.CHOICE, f"one of {len(likely)}, at random for each connection", "R33")
    return sorted(likely, key=lambda each: (each.backend.address, each.backend.port))


def _remembered(
    story: Story, frontend: Frontend, client: Client, lookups: Lookups, *, is_local: bool
) -> Backend | None:
    """`pick_remembered()`; tells about session affinity."""
    about = f"session affinity for {frontend.affinity_timeout_s} s, by {client.shown}"
    if client.key is None:
        story.say(Step.AFFINITY, f"{about}: whoever asked in that time returns", "R61", "R63")
        return None
    entry = lookups.affinity(client.key, client.kind, frontend.service_id)
    if entry is None:
        story.say(Step.AFFINITY, f"{about}: nothing is remembered", "R61")
        return None
    idle_s = max(lookups.now_ns - entry.last_used_ns, 0) // _NS
    if lookups.now_ns - entry.last_used_ns > frontend.affinity_timeout_s * _NS:
        story.say(Step.AFFINITY, f"{about}: last used {idle_s} s ago, so it is over", "R63")
        return None
    backend = _still_in_set(entry, frontend, lookups, is_local=is_local)
    if backend is None:
        story.say(Step.AFFINITY, f"{about}: the backend it had is not in that set", "R64", "R66")
        return None
    where = format_endpoint(backend.address, backend.port)
    story.say(Step.AFFINITY, f"{about}: returns to {where}, used {idle_s} s ago", "R61")
    return backend


def _still_in_set(
    entry: Affinity, frontend: Frontend, lookups: Lookups, *, is_local: bool
) -> Backend | None:
    """`take_known_backend()`."""
    required = BackendFlag.IN_LOCAL if is_local else BackendFlag.IN_CLUSTER
    backend = lookups.backend(entry.backend_id)
    if backend is None or backend.service_id != frontend.service_id:
        return None
    is_same = backend.generation == entry.generation
    return backend if is_same and backend.flags & required else None


def say_policy(
    story: Story, frontend: Frontend, lookups: Lookups, *, is_local: bool, whom: str
) -> None:
    """Which of the two sets, and why (R43-R51)."""
    run = frontend.local if is_local else frontend.cluster
    number = f"{run.size} to choose from, {'on this node' if is_local else 'in the whole cluster'}"
    if not frontend.is_policy_local:
        story.say(Step.POLICY, f"policy Cluster: {number}", "R28")
    elif is_local:
        story.say(
            Step.POLICY, f"policy Local, which holds for {whom}: {number}", "R29", "R43", "R48"
        )
    else:
        story.say(Step.POLICY, f"policy Local, but not for {whom}: {number}", "R50", "R51")
