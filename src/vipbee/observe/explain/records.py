# SPDX-License-Identifier: Apache-2.0
"""Entries of the tables as plain values. Addresses are 16 bytes. No logic but what they say."""

from __future__ import annotations

from typing import NamedTuple

from vipbee.abi import BackendFlag, ConntrackFlag, DeviceFlag, FrontendFlag, FrontendKind
from vipbee.address import UNSPECIFIED_V4, UNSPECIFIED_V6, family_of, format_address
from vipbee.core.snapshot import Records


class Run(NamedTuple):
    """A contiguous run of `slots`."""

    first: int
    size: int


class Frontend(NamedTuple):
    address: bytes
    port: int
    protocol: int
    service_id: int
    kind: FrontendKind
    flags: int
    affinity_timeout_s: int
    cluster: Run
    local: Run

    @property
    def is_policy_local(self) -> bool:
        return bool(self.flags & FrontendFlag.POLICY_LOCAL)

    @property
    def has_source_ranges(self) -> bool:
        return bool(self.flags & FrontendFlag.SOURCE_RANGES)

    @property
    def is_on_every_node_address(self) -> bool:
        return self.address in (UNSPECIFIED_V4, UNSPECIFIED_V6)


class Service(NamedTuple):
    """One Service port, for people."""

    namespace: str
    name: str
    port_name: str
    port: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Backend(NamedTuple):
    id: int
    address: bytes
    port: int
    flags: int
    service_id: int
    generation: int

    @property
    def is_on_node(self) -> bool:
        return bool(self.flags & BackendFlag.ON_NODE)


class Affinity(NamedTuple):
    backend_id: int
    generation: int
    last_used_ns: int


class Device(NamedTuple):
    ifindex: int
    name: str
    v4: bytes | None  # source for SNAT when a packet leaves here
    v6: bytes | None
    flags: int

    @property
    def is_uplink(self) -> bool:
        return bool(self.flags & DeviceFlag.UPLINK)

    @property
    def is_pod(self) -> bool:
        return bool(self.flags & DeviceFlag.POD)

    @property
    def is_loopback(self) -> bool:
        return bool(self.flags & DeviceFlag.LOOPBACK)

    def address(self, family: int) -> bytes | None:
        return self.v4 if family == 4 else self.v6


class SourceRange(NamedTuple):
    address: bytes
    bits: int  # of 128: an IPv4 prefix has 96 more than its text

    def contains(self, address: bytes) -> bool:
        shift = 128 - self.bits
        return int.from_bytes(address) >> shift == int.from_bytes(self.address) >> shift

    def __str__(self) -> str:
        length = self.bits - 96 if family_of(self.address) == 4 else self.bits
        return f"{format_address(self.address)}/{length}"


class Flow(NamedTuple):
    """struct flow_tuple: a packet's addresses and ports."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    protocol: int


class Connection(NamedTuple):
    """The forward half, with the entry itself for core.connection_age."""

    zone: str
    is_established: bool
    flow: Flow
    backend: bytes
    backend_port: int
    source: bytes
    source_port: int
    service_id: int
    backend_id: int
    generation: int
    client_seen: int
    backend_seen: int
    flags: int
    key: Records  # struct flow_tuple[1]
    entry: Records  # struct conntrack[1]

    @property
    def is_redirected(self) -> bool:
        return bool(self.flags & ConntrackFlag.REDIRECT)

    @property
    def reply(self) -> Flow:
        """`reply_of()` of bpf/conntrack.h."""
        source, port = self.source, self.source_port
        return Flow(self.backend, self.backend_port, source, port, self.flow.protocol)


class ReverseHalf(NamedTuple):
    zone: str
    original: Flow
    backend_id: int
    generation: int
    flags: int
    last_seen: int

    @property
    def is_redirected(self) -> bool:
        return bool(self.flags & ConntrackFlag.REDIRECT)

    @property
    def is_direct(self) -> bool:
        """Left to a connection that bypasses us (D85)."""
        return bool(self.flags & ConntrackFlag.DIRECT)
