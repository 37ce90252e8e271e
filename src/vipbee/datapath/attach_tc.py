# SPDX-License-Identifier: Apache-2.0
"""The packet programs on the devices of this namespace: attached, followed, removed.

    tcx (6.6)   one link per device and direction, pinned as links/tc-<ifindex>-<direction>
    below       a clsact filter; qdiscs/<netns cookie>-<ifindex> notes a qdisc we made

Links survive the agent. At each call a link is left alone if it is on the device that
has that number now and runs the pinned program; only what differs is touched (F59). An
ifindex may be another device's by now, also in another namespace (F71): so the kernel
is asked which links the device has, not the pin which device it was.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vipbee.abi import DeviceFlag
from vipbee.datapath import clsact, syscall
from vipbee.datapath.device_roles import Role
from vipbee.datapath.pins import QDISCS, PinDirectory

_LINK_NAME = re.compile(r"tc-(\d+)-(ingress|egress)")


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def attach_type(self) -> int:
        return syscall.TCX_INGRESS if self is Direction.INGRESS else syscall.TCX_EGRESS

    @property
    def parent(self) -> int:
        return clsact.INGRESS if self is Direction.INGRESS else clsact.EGRESS


@dataclass(slots=True)
class Attached:
    """What one call did."""

    changed: list[str] = field(default_factory=list)  # "eth0 ingress"
    removed: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # device: why
    by: str = "tcx"  # or "clsact", once the kernel has refused a tcx link as unknown
    is_complete: bool = True  # False: time was up, call again
    closed_loopback: str = ""  # why loopback does not take the node's own addresses


class PacketHooks:
    """Keeps the packet programs on the right devices. The caller holds `pins.exclusive`."""

    def __init__(self, directory: PinDirectory, netns_cookie: int, *, use_tcx: bool = True) -> None:
        self._directory = directory
        self._cookie = netns_cookie
        self._use_tcx = use_tcx

    def bring(self, roles: Mapping[int, Role], *, until: float | None = None) -> Attached:
        """Let exactly these devices run the pinned programs; a failing one is skipped.

        From the monotonic time `until` on no device is begun that has something to be done.
        """
        done = Attached()
        wanted = {ifindex: role for ifindex, role in roles.items() if role.is_attached}
        # uplinks first: each attachment waits for an RCU grace period
        wanted = dict(sorted(wanted.items(), key=lambda item: item[1].flags & DeviceFlag.POD))
        done.removed = self._remove_links_except(wanted)
        for ifindex, role in wanted.items():
            if until is not None and time.monotonic() >= until and done.changed:
                done.is_complete = False
                break
            for direction in directions(role.flags):
                name = program_name(role.flags, direction)
                try:
                    if self._attach(ifindex, direction, name):
                        done.changed.append(f"{role.device.name} {direction}")
                except OSError as error:
                    if error.errno != errno.ENODEV:  # went away meanwhile: a notice follows
                        done.failures[role.device.name] = os.strerror(error.errno or 0)
        done.by = "tcx" if self._use_tcx else "clsact"
        if not self._use_tcx:
            done.removed += remove_filters(self._directory, self._cookie, roles, keep=wanted)
        return done

    def _attach(self, ifindex: int, direction: Direction, program: str) -> bool:
        """False if it runs there already."""
        program_fd = self._directory.get("programs", program)
        if program_fd is None:
            raise FileNotFoundError(errno.ENOENT, f"{program} is not pinned")
        try:
            if self._use_tcx:
                try:
                    return self._attach_tcx(ifindex, direction, program_fd)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    self._use_tcx = False  # below 6.6
            return self._attach_clsact(ifindex, direction, program_fd, program)
        finally:
            os.close(program_fd)

    def _attach_tcx(self, ifindex: int, direction: Direction, program_fd: int) -> bool:
        pin = _link_name(ifindex, direction)
        link_fd = self._directory.get("links", pin)
        try:
            if link_fd is not None:
                link = syscall.link_info(link_fd)
                if link.id in syscall.tcx_links(ifindex, direction.attach_type):
                    if link.program_id == syscall.program_info(program_fd).id:
                        return False
                    syscall.link_update(link_fd, program_fd)
                    return True
            # Ours is nearest to the wire: others see what the client sent translated,
            # and what goes out before it is restored.
            created = syscall.link_create_tcx(
                program_fd,
                ifindex,
                direction.attach_type,
                first=direction is Direction.INGRESS,
            )
            try:
                self._directory.put("links", pin, created)
            finally:
                os.close(created)
            return True
        finally:
            if link_fd is not None:
                os.close(link_fd)

    def _attach_clsact(
        self, ifindex: int, direction: Direction, program_fd: int, program: str
    ) -> bool:
        program_id = syscall.program_info(program_fd).id
        for found in clsact.read_filters(ifindex, direction.parent):
            if found.is_ours and found.program_id == program_id:
                return False
        if clsact.ensure_qdisc(ifindex):
            self._directory.note(QDISCS, f"{self._cookie}-{ifindex}")
        clsact.put_filter(ifindex, direction.parent, program_fd, program)
        return True

    def _remove_links_except(self, wanted: Mapping[int, Role]) -> int:
        # a stale link is replaced when the device that has its number now is attached
        names = [
            name for name, ifindex, _ in _pinned_links(self._directory) if ifindex not in wanted
        ]
        for name in names:
            self._directory.remove("links", name)
        return len(names)


def directions(flags: DeviceFlag) -> tuple[Direction, ...]:
    """Where a device with this role has a program."""
    return (Direction.EGRESS,) if flags & DeviceFlag.LOOPBACK else tuple(Direction)


def program_name(flags: DeviceFlag, direction: Direction) -> str:
    """The program for one direction of a device with this role."""
    role = "pod" if flags & DeviceFlag.POD else "uplink"
    way = "in" if direction is Direction.INGRESS else "out"
    return f"vipbee_{role}_{way}{'_l3' if flags & DeviceFlag.L3 else ''}"


def remove_links(directory: PinDirectory) -> int:
    """Detach from every device by unpinning; returns how many links that were."""
    names = [name for name, _, _ in _pinned_links(directory)]
    for name in names:
        directory.remove("links", name)
    return len(names)


def remove_filters(
    directory: PinDirectory, cookie: int, ifindices: Iterable[int], keep: Iterable[int] = ()
) -> int:
    """Remove our filters from these devices of this namespace, and qdiscs we made if empty."""
    removed, kept = 0, set(keep)
    for ifindex in set(ifindices) - kept:
        for direction in Direction:
            removed += clsact.remove_filter(ifindex, direction.parent)
    for note in directory.notes(QDISCS):
        where, _, number = note.partition("-")
        if where == str(cookie) and number.isdigit() and int(number) not in kept:
            clsact.remove_qdisc(int(number))
            directory.forget(QDISCS, note)
    return removed


@dataclass(frozen=True, slots=True)
class PacketHook:
    """One place a packet program runs at."""

    ifindex: int
    direction: Direction
    how: str  # "tcx" or "clsact"
    program_id: int


def read_packet_hooks(directory: PinDirectory, ifindices: Iterable[int]) -> list[PacketHook]:
    """What runs on these devices of the calling namespace, by ifindex; reads only."""
    found = []
    for name, ifindex, direction in _pinned_links(directory):
        link_fd = directory.get("links", name)
        if link_fd is None:
            continue
        try:
            link = syscall.link_info(link_fd)
        finally:
            os.close(link_fd)
        if link.id in syscall.tcx_links(ifindex, direction.attach_type):
            found.append(PacketHook(ifindex, direction, "tcx", link.program_id))
    if not found:
        for ifindex in sorted(ifindices):
            for direction in Direction:
                found += [
                    PacketHook(ifindex, direction, "clsact", entry.program_id)
                    for entry in clsact.read_filters(ifindex, direction.parent)
                    if entry.is_ours
                ]
    return sorted(found, key=lambda hook: (hook.ifindex, hook.direction))


def _link_name(ifindex: int, direction: Direction) -> str:
    return f"tc-{ifindex}-{direction}"


def _pinned_links(directory: PinDirectory) -> list[tuple[str, int, Direction]]:
    matches = [(name, _LINK_NAME.fullmatch(name)) for name in directory.names("links")]
    return [(name, int(m[1]), Direction(m[2])) for name, m in matches if m is not None]
