# SPDX-License-Identifier: Apache-2.0
"""The packet layer's settings → members of `struct config` (bpf/abi.h), and what excludes what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vipbee.config import values
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.port_ranges import (
    PRIVILEGED_PORTS,
    PortRange,
    parse_port_range,
    source_ports_beside,
)
from vipbee.errors import UsageError

_LONGEST_S = 31 * 86400
_LEAST_SOURCE_PORTS = 1024


def lifetime(option: str, value: Any) -> int:
    """Whole seconds: the unit of the datapath's clock."""
    given = values.seconds(option, value)
    if given > _LONGEST_S or given != int(given):
        raise UsageError(f"{option} wants whole seconds, at most 31 days, not {value!r}")
    return int(given)


def port_range(option: str, value: Any) -> PortRange:
    """`30000-32767`, `30000,32767` or `[30000, 32767]`."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        return parse_port_range(text)
    except ValueError:
        raise UsageError(
            f"{option} wants a range of ports like 30000-32767, not {value!r}"
        ) from None


def check_ports(node_ports: PortRange, source_ports: PortRange | None) -> None:
    """Raise UsageError if these leave SNAT no port, or ports whose replies go astray."""
    if source_ports is None:
        if source_ports_beside(node_ports).size < _LEAST_SOURCE_PORTS:
            raise UsageError(
                f"nodeport-range {node_ports} leaves fewer than {_LEAST_SOURCE_PORTS} ports in a"
                " row for source addresses: choose a smaller one"
            )
        return
    if source_ports.overlaps(node_ports):
        raise UsageError(
            f"snat-port-range {source_ports} overlaps nodeport-range {node_ports}: a reply to a"
            " NodePort number would be taken for a new connection"
        )
    if source_ports.first < PRIVILEGED_PORTS or source_ports.size < _LEAST_SOURCE_PORTS:
        raise UsageError(
            f"snat-port-range {source_ports} wants at least {_LEAST_SOURCE_PORTS} ports, none of"
            f" them below {PRIVILEGED_PORTS}"
        )


def check_masquerade(*, masquerade_all: bool, packet_lb: bool) -> None:
    """Raise UsageError if nothing here could do it: a socket is given no other address."""
    if masquerade_all and not packet_lb:
        raise UsageError(
            "masquerade-all wants the packet layer, which packet-lb: false switches off: give up"
            " one of them"
        )


def constants(
    *,
    lifetimes: Lifetimes,
    node_ports: PortRange,
    source_ports: PortRange | None,
    cluster_ip_from_outside: bool,
    masquerade_all: bool,
) -> Mapping[str, int]:
    """Members of `struct config` by name."""
    taken_from = source_ports or source_ports_beside(node_ports)
    return {
        **{f"lifetime_{name}": seconds for name, seconds in lifetimes._asdict().items()},
        "node_port_first": node_ports.first,
        "node_port_last": node_ports.last,
        "snat_port_first": taken_from.first,
        "snat_port_last": taken_from.last,
        "cluster_ip_from_outside": int(cluster_ip_from_outside),
        "masquerade_all": int(masquerade_all),
    }
