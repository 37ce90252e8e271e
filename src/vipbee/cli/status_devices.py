# SPDX-License-Identifier: Apache-2.0
"""The part of `vipbee status` about the packet layer: which devices run its programs."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vipbee.cli.output import Column, Format, count, print_table, say

if TYPE_CHECKING:
    from vipbee.abi import DeviceFlag
    from vipbee.datapath.kernel import KernelTables
    from vipbee.datapath.pins import PinDirectory
    from vipbee.observe.status import DeviceView, StatusView

_BOTH = ["egress", "ingress"]


def read_devices_view(
    directory: PinDirectory, tables: KernelTables, node_netns_cookie: int
) -> list[DeviceView] | None:
    """Devices with a role, as the agent wrote it, and what is attached to them now.

    Looked at in the agent's network namespace, whichever this process is in; None if that
    one cannot be entered.
    """
    from vipbee.abi import DeviceFlag, MapName
    from vipbee.datapath.namespaces import NamespaceGoneError, find_by_cookie, inside
    from vipbee.datapath.netns_cookie import netns_cookie

    if not tables.has(MapName.DEVICES):
        return []
    keys, values = tables.read_hash(MapName.DEVICES)
    roles = {
        ifindex: DeviceFlag(flags)
        for ifindex, flags in sorted(
            zip(keys.tolist(), values["flags"].tolist(), strict=True), key=lambda row: row[0]
        )
        if flags & (DeviceFlag.UPLINK | DeviceFlag.POD)
    }
    if node_netns_cookie in (0, netns_cookie()):  # 0: not known, below 5.14
        return _look(directory, roles)
    namespace = find_by_cookie(node_netns_cookie)
    if namespace is None:
        return None
    try:
        return inside(namespace, lambda: _look(directory, roles))
    except NamespaceGoneError:
        return None


def _look(directory: PinDirectory, roles: Mapping[int, DeviceFlag]) -> list[DeviceView]:
    """In the calling thread's namespace."""
    from vipbee.abi import DeviceFlag
    from vipbee.datapath.attach_tc import read_packet_hooks
    from vipbee.observe.status import DeviceView

    hooks = read_packet_hooks(directory, roles)
    return [
        DeviceView(
            name=_name(ifindex),
            ifindex=ifindex,
            role="pod" if flags & DeviceFlag.POD else "uplink",
            by=next((hook.how for hook in hooks if hook.ifindex == ifindex), None),
            attached=[str(hook.direction) for hook in hooks if hook.ifindex == ifindex],
        )
        for ifindex, flags in roles.items()
    ]


def device_problems(devices: list[DeviceView] | None, *, packet_lb: bool) -> list[str]:
    """One sentence for each thing that works less well than it could."""
    if not packet_lb:
        return []
    if devices is None:
        return ["devices not looked at: they are in a network namespace that cannot be entered"]
    if not devices:
        return ["the packet layer has no device: clients outside are not served"]
    lost = [device.name for device in devices if device.attached != _BOTH]
    found = []
    if lost:
        found.append(f"packet programs are not attached to {', '.join(lost)}")
    if any(device.by == "clsact" for device in devices):
        found.append("packet programs are attached by clsact: others can remove them")
    return found


def devices_line(view: StatusView) -> str:
    """For the summary."""
    if not view.packet_lb:
        return "off: only sockets on this node are served"
    if not view.devices:
        return "no device seen"
    uplinks = [device.name for device in view.devices if device.role == "uplink"]
    pods = len(view.devices) - len(uplinks)
    names = ", ".join(uplinks) or "no uplink"
    return f"{names}; {count(pods, 'pod device')}"


def print_devices(view: StatusView, output: Format) -> None:
    """With -o wide, one line a device."""
    if output is not Format.WIDE or not view.devices:
        return
    columns = (Column("DEVICE"), Column("INDEX", is_number=True), Column("ROLE"))
    rows = [
        (d.name, str(d.ifindex), d.role, d.by or "-", ", ".join(d.attached) or "not attached")
        for d in view.devices
    ]
    say()
    print_table((*columns, Column("BY"), Column("ATTACHED")), rows)


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"#{ifindex}"  # gone
