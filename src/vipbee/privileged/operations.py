# SPDX-License-Identifier: Apache-2.0
"""What takes rights, done in this process: by the helper, or by an agent that kept them.

Must not import NumPy: the helper stays small. Everything comes from the operator's
configuration or from the kernel; see requests.py for the little that is asked from outside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from vipbee.abi import LAYOUT_VERSION, MapName
from vipbee.config import AgentConfig
from vipbee.datapath import attached, pins, syscall
from vipbee.datapath.attach_tc import Attached, PacketHooks
from vipbee.datapath.device_roles import Role, decide_roles
from vipbee.datapath.devices import read_devices
from vipbee.datapath.loopback import accept_own_addresses
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.release import release_stale_sockets
from vipbee.datapath.reserved_ports import reserve
from vipbee.datapath.sweeps import Sweeps as PinnedSweeps
from vipbee.datapath.unmounted import keep_pinned
from vipbee.privileged.requests import Started
from vipbee.takeover.outcome import Step

RODATA: Final = ".rodata"

WRITABLE_MAPS: Final = (
    MapName.FRONTENDS,
    MapName.ADDRESSES,
    MapName.ADDRESS_FILTER,
    MapName.TABLES_EPOCH,
    MapName.SLOTS,
    MapName.BACKENDS,
    MapName.SERVICES,
    MapName.SERVICE_COUNTERS,
    MapName.BACKEND_COUNTERS,
    MapName.REPORTS,
    MapName.AGENT,
    MapName.DEVICES,
    MapName.SOURCE_RANGES,
    MapName.SERVICE_CIDRS,
    # the sweep deletes from these where the kernel has no iterators
    MapName.CONNTRACK_OUTSIDE,
    MapName.CONNTRACK_POD,
    MapName.NAT_OUTSIDE,
    MapName.NAT_POD,
    MapName.CONNTRACK_NEW_OUTSIDE,
    MapName.CONNTRACK_NEW_POD,
    MapName.NAT_NEW_OUTSIDE,
    MapName.NAT_NEW_POD,
)
READABLE_MAPS: Final = (
    MapName.AFFINITY,
    MapName.UDP_FLOWS,
    MapName.REASONS,
    RODATA,
)
"""What the agent gets of the pinned maps. No program and no link: with a program's fd a process
without any right attaches it to every device (measured on 6.18)."""

ATTACHING_S: Final = 0.2
"""For which one request goes on attaching: each attachment waits for an RCU grace period."""


class Sweeps(Protocol):
    def are_available(self) -> bool:
        """Whether the kernel took the iterators."""

    def open(self, program: str, *, unfinished: bool = False) -> int:
        """An fd whose read() sweeps."""


class Privileges(Protocol):
    """What the agent asks for; `Operations` does it here, `client.Helper` in another process."""

    @property
    def maps(self) -> pins.Pinned:
        """The pinned maps, after `load`."""

    @property
    def sweeps(self) -> Sweeps:
        """The iterators that sweep, after `load`."""

    def load(self) -> Started:
        """Bring pins and hooks to what the configuration says."""

    def is_intact(self) -> bool:
        """Whether everything is still pinned and attached as `load` left it."""

    def attach(self, roles: Mapping[int, Role]) -> Attached:
        """Let exactly these devices run the packet programs, as far as they qualify."""

    def release_sockets(self) -> int:
        """End UDP sockets whose backend is gone; how many."""

    def reserve_ports(self) -> bool:
        """Reserve NodePorts as configured; True if the sysctl was written. OSError, ValueError."""

    def take_over(self) -> Step:
        """Look once for what kube-proxy left, and remove it. Takes seconds."""


class Operations:
    """`load` brings the pins to what `config` says; `lock` is the fd of `pins.exclusive`."""

    def __init__(self, config: AgentConfig, load: Callable[[], Started], lock: int) -> None:
        self._config = config
        self._load = load
        self._lock = lock
        self._directory = PinDirectory(config.bpf_root / LAYOUT_VERSION)
        self.sweeps = PinnedSweeps(self._directory)
        self._hooks: PacketHooks | None = None
        self._map_ids: dict[str, int] = {}

    @property
    def maps(self) -> PinDirectory:
        return self._directory

    def load(self) -> Started:
        self._lock = keep_pinned(self._config.bpf_root, self._lock)
        started = self._load()
        self._hooks = PacketHooks(self._directory, netns_cookie()) if started.packet_lb else None
        self._map_ids.clear()
        for name in (*WRITABLE_MAPS, *READABLE_MAPS):
            fd = self._directory.get("maps", name, read_only=True)
            if fd is not None:
                self._map_ids[name] = syscall.map_info(fd).id
                os.close(fd)
        return started

    def is_intact(self) -> bool:
        return attached.is_intact(self._directory, self._map_ids, socket_lb=self._config.socket_lb)

    def attach(self, roles: Mapping[int, Role]) -> Attached:
        if self._hooks is None:
            return Attached()
        done = self._hooks.bring(roles)
        done.closed_loopback = accept_own_addresses(self._directory)
        return done

    def attach_some(self, wanted: Mapping[int, int]) -> Attached:
        """Those of `wanted` (flags by ifindex) that have this very role by our own reading.

        For ATTACHING_S; what is left then is not complete.
        """
        if self._hooks is None:
            return Attached()
        own = decide_roles(
            read_devices(), self._config.devices, self._config.pod_devices, self._config.pod_bridge
        )
        roles = {number: role for number, role in own.items() if wanted.get(number) == role.flags}
        done = self._hooks.bring(roles, until=time.monotonic() + ATTACHING_S)
        done.closed_loopback = accept_own_addresses(self._directory)
        return done

    def release_sockets(self) -> int:
        return release_stale_sockets(self._directory)

    def reserve_ports(self) -> bool:
        config = self._config
        wanted = config.node_port_range if config.reserve_node_ports else None
        return reserve(self._directory, wanted)

    def take_over(self) -> Step:
        from vipbee.takeover.step import take_step

        return take_step()
