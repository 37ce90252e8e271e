# SPDX-License-Identifier: Apache-2.0
"""What the node contributes: its name, zone and the addresses NodePorts live on.

Of the Node objects only the node's own is consulted for labels (R9). Those of other
nodes serve one purpose: a NodePort of another node dialled from here is resolved here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from vipbee.abi import AddressFlag
from vipbee.address import LOOPBACK_V4, LOOPBACK_V6, family_of, format_address, parse_address
from vipbee.core.allowed_addresses import ALL_ALLOWED, AllowedAddresses
from vipbee.core.policy import refused_vip
from vipbee.core.port_ranges import NODE_PORTS, PortRange
from vipbee.errors import UsageError
from vipbee.model import Node

ZONE_LABEL = "topology.kubernetes.io/zone"
PRIMARY = "primary"


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node as `select` and `render` see it; compares by value.

    Addresses are 16 bytes, IPv4 before IPv6; `own_addresses` are those selected for
    NodePorts (R90), `other_addresses` the primary ones of other nodes. `loopback`
    adds 127.0.0.1 and ::1, for programs in the node's own network namespace only.
    """

    name: str
    zone: str | None = None
    own_addresses: tuple[bytes, ...] = ()
    other_addresses: tuple[bytes, ...] = ()
    loopback: bool = True
    packet_lb: bool = False  # the packet layer runs as well
    node_port_range: PortRange = NODE_PORTS  # it serves no NodePort outside
    interface_addresses: tuple[bytes, ...] = ()  # with it: all of this node's, for SNAT
    labels: tuple[tuple[str, str], ...] | None = None  # None: no Node object is known
    allowed: AllowedAddresses = ALL_ALLOWED
    all_addresses: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        everything = frozenset(self.own_addresses + self.other_addresses)
        object.__setattr__(self, "all_addresses", everything)


def make_node_view(
    name: str,
    nodes: Iterable[Node],
    local_addresses: Sequence[bytes],
    nodeport_addresses: str = PRIMARY,
    *,
    loopback: bool = True,
    packet_lb: bool = False,
    node_port_range: PortRange = NODE_PORTS,
    allowed: AllowedAddresses = ALL_ALLOWED,
    bind_address: bytes | None = None,
) -> NodeView:
    """Combine Node objects and interface addresses into the view of node `name`.

    `local_addresses` are the node's interface addresses, the preferred one first.
    `nodeport_addresses` is the option's text: "primary", or CIDRs separated by commas
    (R90). Raises UsageError if that text is neither. `bind_address` goes before every other
    primary address of its family.
    """
    own = None
    others: set[bytes] = set()
    for node in nodes:
        if node.metadata.name == name:
            own = node
        else:
            others.update(_primary(_status_addresses(node)))
    usable = [address for address in local_addresses if refused_vip(address) is None]
    networks = _parse_networks(nodeport_addresses)
    if networks is None:
        selected = _primary(_status_addresses(own) if own else ()) or _primary(usable)
        if bind_address is not None:
            selected = _primary((bind_address, *selected))
    else:
        selected = tuple(sorted({a for a in usable if _is_selected(a, networks)}, key=_order))
    labels = (own.metadata.labels if own else None) or {}
    return NodeView(
        name=name,
        zone=labels.get(ZONE_LABEL) or None,
        own_addresses=selected,
        other_addresses=tuple(sorted(others.difference(selected), key=_order)),
        loopback=loopback,
        packet_lb=packet_lb,
        node_port_range=node_port_range,
        interface_addresses=tuple(sorted(local_addresses, key=_order)) if packet_lb else (),
        labels=tuple(sorted(labels.items())) if own else None,
        allowed=allowed,
    )


def address_flags(view: NodeView) -> dict[bytes, int]:
    """Return AddressFlags of every address that serves NodePorts or is a source of SNAT."""
    flags = {address: int(AddressFlag.NODE) for address in view.other_addresses}
    for address in view.own_addresses:
        flags[address] = AddressFlag.NODE | AddressFlag.OWN
    if view.loopback:
        for address in (LOOPBACK_V4, LOOPBACK_V6):
            flags[address] = AddressFlag.NODE | AddressFlag.OWN | AddressFlag.HOST_ONLY
    for address in view.interface_addresses:
        flags[address] = flags.get(address, 0) | AddressFlag.SNAT
    return flags


def _status_addresses(node: Node) -> tuple[bytes, ...]:
    """Usable addresses in the order of preference: every InternalIP before any ExternalIP."""
    reported = (node.status.addresses if node.status else None) or ()
    found = []
    for wanted in ("InternalIP", "ExternalIP"):
        for entry in reported:
            if entry.type != wanted:
                continue
            try:
                address = parse_address(entry.address)
            except ValueError:
                continue  # a node that reports nonsense is not ours to mend
            if refused_vip(address) is None:
                found.append(address)
    return tuple(found)


def _primary(addresses: Iterable[bytes]) -> tuple[bytes, ...]:
    """The first address of each family, IPv4 before IPv6."""
    first: dict[int, bytes] = {}
    for address in addresses:
        first.setdefault(family_of(address), address)
    return tuple(first[family] for family in sorted(first))


def _parse_networks(text: str) -> list[IPv4Network | IPv6Network] | None:
    if text == PRIMARY:
        return None
    try:
        return [ip_network(cidr.strip(), strict=False) for cidr in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--nodeport-addresses: {error}; give 'primary' or CIDRs separated by commas"
        ) from None


def _is_selected(address: bytes, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """A family the list has no CIDR of is selected whole (R90)."""
    value = ip_address(format_address(address))
    mine = [network for network in networks if network.version == value.version]
    return not mine or any(value in network for network in mine)


def _order(address: bytes) -> tuple[int, bytes]:
    return family_of(address), address
