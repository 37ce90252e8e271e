# SPDX-License-Identifier: Apache-2.0
"""How the datapath was loaded: what explain needs of `struct config`, and of what is attached."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipbee.core.lifetimes import Lifetimes

if TYPE_CHECKING:
    import numpy as np


class Settings(NamedTuple):
    """Defaults are those of bpf/config.h."""

    has_socket_hooks: bool = True
    packet_lb: bool = False
    has_set_retval: bool = True
    cluster_ip_from_outside: bool = False
    masquerade_all: bool = False
    node_netns_cookie: int = 0  # 0: unknown
    node_ports: tuple[int, int] = (30000, 32767)
    lifetimes: Lifetimes = Lifetimes()

    @classmethod
    def of(cls, config: np.void, *, has_socket_hooks: bool) -> Settings:
        """As the loaded programs have them."""
        return cls(
            has_socket_hooks=has_socket_hooks,
            packet_lb=bool(config["packet_lb"]),
            has_set_retval=bool(config["has_set_retval"]),
            cluster_ip_from_outside=bool(config["cluster_ip_from_outside"]),
            masquerade_all=bool(config["masquerade_all"]),
            node_netns_cookie=int(config["node_netns_cookie"]),
            node_ports=(int(config["node_port_first"]), int(config["node_port_last"])),
            lifetimes=Lifetimes.of(config),
        )

    def is_node_port_number(self, port: int) -> bool:
        """`is_node_port_number()` of bpf/snat.h."""
        first, last = self.node_ports
        return first <= port <= last
