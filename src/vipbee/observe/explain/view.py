# SPDX-License-Identifier: Apache-2.0
"""The stable schema of `vipbee explain -o json` and `-o yaml`; members are only ever added.

address, port, protocol ("TCP" | "UDP" | "SCTP")     what was asked about
sender      address (null: none is known), port, device (null: not given), role: "node" |
            "pod" | "outside" | "forwarded" (by a device without packet programs) | null: no
            table says, so there are answers for a pod and for outside
frontend    null, or: address ("*": any address of a node), port, type, policy ("Cluster" |
            "Local"), affinityTimeoutSeconds (0: none), hasSourceRanges; namespace, name,
            portName, servicePort of its Service
summary     one sentence
problems    what the agent reported about that Service or address: severity, object, message
answers     one for each layer that may meet it, in that order:
  layer       "sockets" | "packets"
  role        whom it is for, as above
  hook        where it is decided: "connect, sendmsg" | "uplink_in" | "uplink_out" |
              "pod_in" | "pod_out"
  verdict     "pass" (untouched) | "translate" | "restore" (a reply) | "refuse" | "drop"
  leftToPackets   passed by the sockets for the packet layer to decide
  reason      name in vipbee_reasons_total, or null
  counted     how often that reason was counted so far, by anybody; null without reason
  errno       what the program sees of a refusal at the socket, or null
  steps       what was decided, in order: step, says (a sentence, not stable), rules ("R33" …)
  candidates  backends a new connection may get, or the one it has: address, port, sharePercent,
              state ("active" | "terminating" | "not selected" | "gone"), nodeLocal, path, seenAs
    path      "socket" (no packet is touched) | "stack" (destination rewritten, on through the
              node's stack) | "redirect" (rewritten and sent by the route) | "hairpin" (back to
              the pod it came from) | "loopback" (to a program of the node)
    seenAs    addresses the backend may take for the client's; several: the route decides
  connection  null, or the one that exists for the sender's port: state as in `conntrack list`,
              zone, client, frontend, backend, source, isEvictable, isRedirected, ageSeconds,
              remainingSeconds (negative: over), hasReverseHalf
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from vipbee.observe.status import ProblemView


class Role(StrEnum):
    NODE = "node"
    POD = "pod"
    OUTSIDE = "outside"
    FORWARDED = "forwarded"


class Layer(StrEnum):
    SOCKETS = "sockets"
    PACKETS = "packets"


class Verdict(StrEnum):
    PASS = "pass"
    TRANSLATE = "translate"
    RESTORE = "restore"
    REFUSE = "refuse"
    DROP = "drop"


class Step(StrEnum):
    """What is decided, in about this order."""

    SENDER = "sender"
    FRONTEND = "frontend"
    FLOW = "flow"
    CONNECTION = "connection"
    SOURCE = "source"
    SOURCE_RANGES = "source ranges"
    LAYER = "layer"
    POLICY = "policy"
    AFFINITY = "affinity"
    CHOICE = "choice"
    PATH = "path"
    VERDICT = "verdict"


class Path(StrEnum):
    SOCKET = "socket"
    STACK = "stack"
    REDIRECT = "redirect"
    HAIRPIN = "hairpin"
    LOOPBACK = "loopback"


class StepView(Struct, rename="camel", kw_only=True):
    step: Step
    says: str
    rules: list[str]


class CandidateView(Struct, rename="camel", kw_only=True):
    address: str
    port: int
    share_percent: float
    state: str
    node_local: bool
    path: Path
    seen_as: list[str]


class ConnectionView(Struct, rename="camel", kw_only=True):
    state: str
    zone: str
    client: str
    frontend: str
    backend: str
    source: str
    is_evictable: bool
    is_redirected: bool
    age_seconds: int
    remaining_seconds: int
    has_reverse_half: bool


class AnswerView(Struct, rename="camel", kw_only=True):
    layer: Layer
    role: Role
    hook: str
    verdict: Verdict = Verdict.PASS
    left_to_packets: bool = False
    reason: str | None = None
    counted: int | None = None
    errno: str | None = None
    steps: list[StepView]
    candidates: list[CandidateView]
    connection: ConnectionView | None = None


class SenderView(Struct, rename="camel", kw_only=True):
    address: str | None
    port: int | None
    device: str | None
    role: Role | None


class FrontendView(Struct, rename="camel", kw_only=True):
    address: str
    port: int
    type: str
    policy: str
    affinity_timeout_seconds: int
    has_source_ranges: bool
    namespace: str
    name: str
    port_name: str
    service_port: int


class ExplainView(Struct, rename="camel", kw_only=True):
    address: str
    port: int
    protocol: str
    sender: SenderView
    frontend: FrontendView | None
    summary: str
    problems: list[ProblemView]
    answers: list[AnswerView]
