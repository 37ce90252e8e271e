# SPDX-License-Identifier: Apache-2.0
"""What an operator lets Services do with addresses, within what policy.py leaves.

By default what kube-proxy does: any externalIP (until KEP-5707 changes that), any load balancer
IP that the status names, any backend. Who may write a Service may otherwise capture the traffic
of an address (CVE-2020-8554), so each can be switched off or kept to networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from vipbee.address import V4_PREFIX, family_of

_Network = IPv4Network | IPv6Network


class Networks(NamedTuple):
    """Some networks, or all; compares by value. A family without a network has none."""

    cidrs: tuple[_Network, ...] | None = None  # None: every address

    def permit(self, address: bytes) -> bool:
        """Whether the address (16 bytes) is in one of them."""
        return self.cidrs is None or _contains(self.cidrs, address)


EVERY_ADDRESS = Networks()


@dataclass(frozen=True, slots=True)
class AllowedAddresses:
    """Which may be externalIPs, load balancer IPs and backends; all by default."""

    external_ips: Networks = EVERY_ADDRESS
    load_balancer_ips: Networks = EVERY_ADDRESS
    backends: Networks = EVERY_ADDRESS


ALL_ALLOWED = AllowedAddresses()


@lru_cache(maxsize=65536)
def _contains(cidrs: Iterable[_Network], address: bytes) -> bool:
    value = ip_address(address[len(V4_PREFIX) :] if family_of(address) == 4 else address)
    return any(value.version == cidr.version and value in cidr for cidr in cidrs)
