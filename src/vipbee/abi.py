# SPDX-License-Identifier: Apache-2.0
"""The names Python uses for what bpf/abi.h defines.

Struct layouts are not repeated here: they are read from the object's BTF into
`Layouts`. Enum values are repeated, because code wants to name them; tests/unit/
test_abi.py compares each with BTF. Must not import anything of vipbee.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the privileged process does without NumPy
    import numpy as np

LAYOUT_VERSION = "v1"
"""Name of the pin directory. Changes with the size or meaning of any pinned map."""

ADDRESS_SIZE = 16
"""Bytes of an address: network order, IPv4 v4-mapped."""


class MapName(StrEnum):
    """Every pinned map. The value is its name in bpf/maps.h and in the pin directory."""

    FRONTENDS = "frontends"
    ADDRESSES = "addresses"
    ADDRESS_FILTER = "address_filter"
    TABLES_EPOCH = "tables_epoch"
    SLOTS = "slots"
    BACKENDS = "backends"
    SERVICE_COUNTERS = "service_counters"
    BACKEND_COUNTERS = "backend_counters"
    REASONS = "reasons"
    TCP_FLOWS = "tcp_flows"
    TCP_CLAIMS = "tcp_claims"
    SOCKET_FLOWS = "socket_flows"
    SOCKET_FLOWS_LRU = "socket_flows_lru"
    UDP_FLOWS = "udp_flows"
    AFFINITY = "affinity"
    SERVICES = "services"
    REPORTS = "reports"
    AGENT = "agent"
    RESERVED_PORTS = "reserved_ports"
    DEVICES = "devices"
    SERVICE_CIDRS = "service_cidrs"
    SOURCE_RANGES = "source_ranges"
    CONNTRACK_NEW_OUTSIDE = "conntrack_new_outside"
    CONNTRACK_OUTSIDE = "conntrack_outside"
    NAT_NEW_OUTSIDE = "nat_new_outside"
    NAT_OUTSIDE = "nat_outside"
    CONNTRACK_NEW_POD = "conntrack_new_pod"
    CONNTRACK_POD = "conntrack_pod"
    NAT_NEW_POD = "nat_new_pod"
    NAT_POD = "nat_pod"
    PORT_MARKS = "port_marks"
    FRAGMENTS = "fragments"
    EARLY_FRAGMENTS = "early_fragments"
    FRAGMENT_DRAFTS = "fragment_drafts"
    REFUSAL_BUDGETS = "refusal_budgets"
    DRAFTS = "drafts"


class FrontendKind(IntEnum):
    CLUSTER_IP = 1
    NODE_PORT = 2
    EXTERNAL_IP = 3
    LOAD_BALANCER = 4

    @property
    def label(self) -> str:
        """The name operators know, as Kubernetes and Cilium spell it."""
        return {1: "ClusterIP", 2: "NodePort", 3: "ExternalIP", 4: "LoadBalancer"}[self]


class FrontendFlag(IntFlag):
    POLICY_LOCAL = 1
    SOURCE_RANGES = 2


class AddressFlag(IntFlag):
    CLUSTER_IP = 1
    NODE = 2
    HOST_ONLY = 4
    EXTERNAL = 8
    OWN = 16
    SNAT = 32


class BackendFlag(IntFlag):
    SERVING = 1
    IN_CLUSTER = 2
    IN_LOCAL = 4
    ON_NODE = 8
    TERMINATING = 16
    READY = 32


class Reason(IntEnum):
    NO_ENDPOINT = 1
    UNKNOWN_PORT = 2
    NO_LOCAL_ENDPOINT = 3
    TABLE_RACE = 4
    BIND_PROTECTED = 5
    FLOW_NOT_STORED = 6
    MALFORMED = 7
    EXTENSION_HEADERS = 8
    MARTIAN = 9
    FRAGMENT_UNKNOWN = 10
    FRAGMENT_TINY = 11
    PROTOCOL = 12
    SOURCE_RANGE = 13
    NO_CONNECTION = 14
    SNAT_EXHAUSTED = 15
    SNAT_NO_ADDRESS = 16
    NO_ROUTE = 17
    TTL_EXPIRED = 18
    TOO_BIG = 19
    REFUSAL_LIMITED = 20
    ICMP_UNKNOWN = 21
    ICMP_MALFORMED = 22
    ECHO_IGNORED = 23
    ECHO_ANSWERED = 24
    ESTABLISHED_FULL = 25
    REWRITE_FAILED = 26
    CLUSTER_IP_OUTSIDE = 27
    ICMP_PASSED = 28
    NODE_CONNECTION = 29
    SNAT_MOVED = 30
    TWIN_REPAIRED = 31
    UNALLOCATED = 32
    FRAGMENT_HELD = 33


class SocketFlowFlag(IntFlag):
    CONNECTED = 1
    SHARED = 2


class UdpFlowDirection(IntEnum):
    FORWARD = 1
    REVERSE = 2


class AffinityClient(IntEnum):
    NETNS = 1
    ADDRESS = 2


class ReportSeverity(IntEnum):
    WARNING = 1
    ERROR = 2


class DeviceFlag(IntFlag):
    UPLINK = 1
    POD = 2
    L3 = 4
    LOOPBACK = 8


class ConntrackFlag(IntFlag):
    SOURCE_NAT = 1
    REDIRECT = 2
    NODE_CLIENT = 4
    DIRECT = 8
    CROSSING = 16


class ConntrackSeen(IntFlag):
    PACKET = 1
    SYN = 2
    FIN = 4
    RST = 8


class SweepOutcome(IntFlag):
    CONNECTION = 1
    REVERSE_HALF = 2


@dataclass(frozen=True, slots=True)
class Layouts:
    """NumPy dtypes of every struct in abi.h, by C name ("frontend_key" → dtype).

    `__be16`/`__be32` members are big-endian, so no caller swaps bytes. No dtype has
    holes that are not named (pads are fields), so `np.zeros` keys hash alike.
    """

    structs: Mapping[str, np.dtype]

    def __getitem__(self, name: str) -> np.dtype:
        return self.structs[name]
