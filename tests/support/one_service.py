# SPDX-License-Identifier: Apache-2.0
"""A pinned datapath that serves one Service, and what of it is still the same later."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.support.hooked import Hooked
from tests.support.servers import TCP, asked
from tests.support.stacks import IPV4, NODE_ADDRESSES, cluster_ip, service_port
from vipbee.datapath import syscall
from vipbee.datapath.pins import KINDS, PinDirectory

INFO: dict[str, Callable[[int], syscall.MapInfo | syscall.ProgramInfo | syscall.LinkInfo]] = {
    "maps": syscall.map_info,
    "programs": syscall.program_info,
    "links": syscall.link_info,
}
VIP = (IPV4.vip(10), 80)


def program(hooked: Hooked) -> None:
    """One Service, at VIP."""
    hooked.program_only(
        service_port("web", cluster_ip(*VIP, TCP), IPV4.backends[:2]),
        node_addresses=NODE_ADDRESSES,
    )


def ids(directory: PinDirectory, kind: str) -> dict[str, int]:
    """The kernel's id of every pin."""
    found = {}
    for name in directory.names(kind):
        fd = directory.get(kind, name)
        assert fd is not None
        found[name] = INFO[kind](fd).id
        os.close(fd)
    return found


def all_ids(directory: PinDirectory) -> dict[str, dict[str, int]]:
    return {kind: ids(directory, kind) for kind in KINDS}


def dial(hooked: Hooked) -> int:
    """0, or the errno of a connect to the VIP."""

    def client() -> int:
        with IPV4.tcp() as sock:
            number = sock.connect_ex(VIP)
            if not number:
                asked(sock)
            return number

    return hooked.run(client)
