# SPDX-License-Identifier: Apache-2.0
"""The agent's part in the packet layer: programs on the right devices, `devices` up to date.

    netlink ──► read_devices ──► decide_roles ──► map `devices`, then the hooks

What cannot be attached is a problem for `vipbee status` and is tried again; nothing here
ever stops the socket layer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple, Protocol

import numpy as np

from vipbee.abi import DeviceFlag, Layouts, MapName
from vipbee.core.plan import Op
from vipbee.core.service_cidrs import Cidr, render_cidrs
from vipbee.datapath.attach_tc import Attached
from vipbee.datapath.device_notices import device_changes
from vipbee.datapath.device_roles import Role, decide_roles
from vipbee.datapath.device_table import render_devices
from vipbee.datapath.devices import read_devices
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.errors import CapacityError, KernelError
from vipbee.logs import get_log
from vipbee.model import Problem

log = get_log()

CHECK_INTERVAL_S = 30.0
"""Between two looks without a notice: a link that somebody detached by force gives none."""
SUBJECT = "Packet layer"


class DeviceLists(NamedTuple):
    """--devices and --pod-devices; empty: found by itself."""

    uplinks: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    pod_bridge: str = ""  # its ports are pods' devices, whatever they are called


class Hooks(Protocol):
    """Who has the right to attach."""

    def attach(self, roles: Mapping[int, Role]) -> Attached:
        """Let exactly these devices run the packet programs."""


class Loaded(Protocol):
    """What of the loaded datapath counts here."""

    @property
    def packet_lb(self) -> bool:
        """The packet programs are pinned and may be attached."""

    @property
    def packet_problem(self) -> str:
        """Why they are not, although they were asked for."""


def start_packet_layer(
    hooks: Hooks,
    loaded: Loaded,
    tables: KernelTables,
    lists: DeviceLists,
    *,
    masquerade_all: bool = False,
) -> PacketLayer:
    """The layer as it was loaded."""
    if loaded.packet_lb:
        return PacketLayer(hooks, tables, load_layouts(), lists)
    layer = PacketLayer(None, tables, load_layouts(), lists)
    if loaded.packet_problem:
        lost = ", and masquerade-all is not obeyed" if masquerade_all else ""
        layer.refused = f"only sockets on this node are served{lost}: {loaded.packet_problem}"
    return layer


class PacketLayer:
    """Follows the devices of this namespace; without `hooks` it does nothing.

    The caller holds the lock on the pins.
    """

    def __init__(
        self, hooks: Hooks | None, tables: KernelTables, layouts: Layouts, lists: DeviceLists
    ) -> None:
        self.refused = ""
        """Why the layer is off although it was asked for."""
        self._hooks = hooks
        self._tables = tables
        self._layouts = layouts
        self._lists = lists
        self._service_cidrs: tuple[Cidr, ...] | None = None  # None: an earlier process's
        self._failures: Mapping[str, str] = {}
        self._has_uplink = True
        self._closed_loopback = ""

    def set_service_cidrs(self, cidrs: tuple[Cidr, ...]) -> None:
        """Drop packets to addresses in there that no Service has (R38)."""
        if cidrs == self._service_cidrs or not self._tables.has(MapName.SERVICE_CIDRS):
            return
        value = render_cidrs(self._layouts, cidrs)
        key, in_between = np.zeros(1, np.uint32), value.copy()
        in_between["count"] = 0  # or a packet would be compared with half of it
        try:
            self._tables.apply(Op(MapName.SERVICE_CIDRS, key, in_between))
            self._tables.apply(Op(MapName.SERVICE_CIDRS, key, value))
        except KernelError as error:
            log.error("ServiceCIDRs cannot be written, will retry", reason=str(error))
            return
        self._service_cidrs = cidrs

    async def follow_devices(self, tell: Callable[[], None]) -> None:
        """Attach to what appears, detach from what goes; `tell` when problems may have changed."""
        if self._hooks is None:
            return
        async with aclosing(_changes_or_time()) as changes:
            async for _ in changes:
                before = self.problems()
                # in a thread: each attachment waits for an RCU grace period
                await asyncio.to_thread(self.bring)
                if self.problems() != before:
                    tell()

    def bring(self) -> None:
        """One comparison of what is with what should be."""
        if self._hooks is None:
            return
        try:
            roles = decide_roles(
                read_devices(), self._lists.uplinks, self._lists.pods, self._lists.pod_bridge
            )
            self._write(roles, keep=True)  # a program must find its device
            done = self._hooks.attach(roles)
            self._write(roles, keep=False)
        except (OSError, KernelError, CapacityError) as error:
            self._failures = {"": str(error)}
            log.error("devices cannot be followed", reason=str(error))
            return
        self._closed_loopback = done.closed_loopback
        self._has_uplink = any(role.flags & DeviceFlag.UPLINK for role in roles.values())
        self._note(done, by=done.by)

    def problems(self) -> list[Problem]:
        """What an operator must know."""
        if self.refused:
            return [Problem(SUBJECT, self.refused, is_error=True)]
        found = [
            Problem(
                SUBJECT,
                f"its programs cannot be attached to {device}: {reason}" if device else reason,
                is_error=True,
            )
            for device, reason in sorted(self._failures.items())
        ]
        if not self._has_uplink:
            message = "no uplink device was found: name it with --devices"
            found.append(Problem(SUBJECT, message, is_error=False))
        if self._closed_loopback:
            found.append(Problem(SUBJECT, self._closed_loopback, is_error=False))
        return found

    def _note(self, done: Attached, *, by: str) -> None:
        for device, reason in done.failures.items():
            if self._failures.get(device) != reason:
                log.error("packet programs not attached", device=device, reason=reason)
        self._failures = done.failures
        if done.changed or done.removed:
            log.info(
                "packet programs attached",
                to=", ".join(done.changed),
                removed=done.removed,
                by=by,
            )

    def _write(self, roles: Mapping[int, Role], *, keep: bool) -> None:
        """Put what differs into `devices`; without `keep`, delete what is gone as well."""
        keys, values = render_devices(self._layouts, roles, _node_addresses(roles))
        old_keys, old_values = self._tables.read_hash(MapName.DEVICES)
        old = dict(zip(old_keys.tolist(), old_values, strict=True))
        differs = np.array(
            [old.get(key) != value for key, value in zip(keys.tolist(), values, strict=True)], bool
        )
        if differs.any():
            self._tables.apply(Op(MapName.DEVICES, keys[differs], values[differs]))
        gone = np.setdiff1d(old_keys, keys)
        if len(gone) and not keep:
            self._tables.apply(Op(MapName.DEVICES, gone, None))


def _node_addresses(roles: Mapping[int, Role]) -> list[bytes]:
    """Every address of the node, the preferred one of each family first."""
    preferred = sorted(
        roles.items(),
        key=lambda item: (
            not item[1].device.has_default_route,
            not item[1].flags & DeviceFlag.UPLINK,
            item[0],
        ),
    )
    return [
        address
        for _, role in preferred
        for address, _ in role.device.addresses
        if not role.device.is_loopback
    ]


async def _changes_or_time() -> AsyncGenerator[None, None]:
    """Yield at every change of devices, and after CHECK_INTERVAL_S without one."""
    woken = asyncio.Event()

    async def listen() -> None:
        async for _ in device_changes():
            woken.set()

    listener = asyncio.create_task(listen(), name="device notices")
    try:
        while True:
            waiting = asyncio.create_task(woken.wait())
            await asyncio.wait(
                (waiting, listener), timeout=CHECK_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
            )
            waiting.cancel()
            if listener.done():
                listener.result()
            woken.clear()
            yield
    finally:
        listener.cancel()
