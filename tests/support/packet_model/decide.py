# SPDX-License-Identifier: Apache-2.0
"""A packet that belongs to no connection: whose frontend, which set, which verdict (R35-R95).

Gives a `Decision`: refuse, drop, pass or connect. Nothing here changes state.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tests.support.packet_model.tracking import Zone
from tests.support.packet_model.wire import ACK, FIN, RST, SYN, TCP, Packet
from tests.support.packet_model.world import Backend, Frontend, World, is_impossible_source
from vipbee.abi import AddressFlag, FrontendKind, Reason


class Kind(StrEnum):
    PASS = "pass"
    DROP = "drop"
    REFUSE = "refuse"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True)
class Decision:
    kind: Kind
    rule: str
    reason: Reason | None = None
    frontend: Frontend | None = None
    backends: tuple[Backend, ...] = ()


def is_clean_syn(packet: Packet) -> bool:
    return packet.flags & (SYN | ACK | RST | FIN) == SYN


def decide(world: World, packet: Packet, zone: Zone) -> tuple[Decision, ...]:
    """What the rules accept for a new connection, preferred first."""
    flags = world.flags(packet.destination)
    frontend = world.lookup(packet.dialled, packet.protocol)
    if frontend is None:
        inside = zone is Zone.POD or world.cluster_ip_from_outside
        return _without_frontend(flags, Zone.POD if inside else zone)
    if zone is Zone.POD and not _resolved_here(frontend, flags):
        # R53: another node's NodePort may be resolved at the client, or not
        return (*_for_frontend(world, packet, zone, frontend, flags), _pass("R53"))
    return _for_frontend(world, packet, zone, frontend, flags)


def decide_for_node(world: World, packet: Packet) -> tuple[Decision, ...]:
    """The same for a program of the node: short-circuited like a pod's, its source its own."""
    flags = world.flags(packet.destination)
    frontend = world.lookup(packet.dialled, packet.protocol)
    if frontend is None:
        return _without_frontend(flags, Zone.POD)
    if packet.protocol == TCP and not is_clean_syn(packet):
        if flags & AddressFlag.NODE or not flags & AddressFlag.CLUSTER_IP:
            # older than the Service, perhaps (R36)
            return (_pass("D81, R94", Reason.NODE_CONNECTION),)
        return (Decision(Kind.DROP, "D20, D81", Reason.NO_CONNECTION),)
    if not world.source_allowed(frontend, packet.source):
        return (Decision(Kind.DROP, "R80", Reason.SOURCE_RANGE),)
    return (_choose_set(world, Zone.POD, frontend),)


def _resolved_here(frontend: Frontend, flags: AddressFlag) -> bool:
    return frontend.kind != FrontendKind.NODE_PORT or bool(flags & AddressFlag.OWN)


def _without_frontend(flags: AddressFlag, zone: Zone) -> tuple[Decision, ...]:
    if not flags & AddressFlag.CLUSTER_IP:
        return (_pass("R40, R90: not our port"),)
    refuse = Decision(Kind.REFUSE, "R37: ClusterIP, unknown port", Reason.UNKNOWN_PORT)
    if zone is Zone.POD:
        return (refuse,)
    return (_outside_cluster_ip(), refuse)


def _outside_cluster_ip() -> Decision:
    return Decision(Kind.DROP, "R42: ClusterIP from outside", Reason.CLUSTER_IP_OUTSIDE)


def _pass(rule: str, reason: Reason | None = None) -> Decision:
    return Decision(Kind.PASS, rule, reason)


def _for_frontend(
    world: World, packet: Packet, zone: Zone, frontend: Frontend, flags: AddressFlag
) -> tuple[Decision, ...]:
    is_cluster_ip = frontend.kind == FrontendKind.CLUSTER_IP
    if is_cluster_ip and zone is Zone.OUTSIDE and not world.cluster_ip_from_outside:
        return (_outside_cluster_ip(),)  # [profile] of this project: not served unless wanted
    if packet.protocol == TCP and not is_clean_syn(packet):
        if flags & AddressFlag.NODE:  # may be the node's own connection (R94)
            return (_pass("D81, R94", Reason.NODE_CONNECTION),)
        return (Decision(Kind.DROP, "D20, D81", Reason.NO_CONNECTION),)
    if is_martian(world, packet):
        return (Decision(Kind.DROP, "D146, D150", Reason.MARTIAN),)
    if not world.source_allowed(frontend, packet.source):
        return (Decision(Kind.DROP, "R80", Reason.SOURCE_RANGE),)
    return (_choose_set(world, zone, frontend),)


def is_martian(world: World, packet: Packet) -> bool:
    """A source nobody may answer to, or that only this node may use."""
    if is_impossible_source(packet.source) or packet.source == packet.destination:
        return True
    ours = AddressFlag.OWN | AddressFlag.SNAT | AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL
    return bool(world.flags(packet.source) & ours)


def _choose_set(world: World, zone: Zone, frontend: Frontend) -> Decision:
    """R43-R52: the policy of the destination; pods are short-circuited past eTP (R50)."""
    applies = zone is Zone.OUTSIDE or frontend.kind == FrontendKind.CLUSTER_IP
    ids = frontend.local if frontend.policy_local and applies else frontend.cluster
    backends = tuple(world.backends[i] for i in ids)
    if backends:
        return Decision(Kind.CONNECT, "R33", frontend=frontend, backends=backends)
    if not frontend.cluster:
        return Decision(Kind.REFUSE, "R35: no endpoint", Reason.NO_ENDPOINT)
    return Decision(Kind.DROP, "R44, R49: no local endpoint", Reason.NO_LOCAL_ENDPOINT)
