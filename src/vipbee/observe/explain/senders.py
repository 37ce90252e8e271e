# SPDX-License-Identifier: Apache-2.0
"""Who asks, as far as the tables say: that decides which hooks are met (R50-R52)."""

from __future__ import annotations

from typing import NamedTuple

from vipbee.abi import AddressFlag
from vipbee.address import family_of, format_address
from vipbee.errors import UsageError
from vipbee.observe.explain.addresses import is_loopback
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.question import Question
from vipbee.observe.explain.records import Device
from vipbee.observe.explain.view import Role

_OWN = AddressFlag.OWN | AddressFlag.SNAT


class Sender(NamedTuple):
    role: Role
    address: bytes | None  # None: this node has none of that family
    port: int | None
    device: Device | None  # by which its packets come in, if that was told
    why: str

    @property
    def zone(self) -> str:
        """Where connections of what comes in by its device are kept."""
        return "pod" if self.role is Role.POD else "outside"


def find_senders(question: Question, lookups: Lookups) -> list[Sender]:
    """One, or two if no table says whether the address is a pod's or outside."""
    address, port = question.source, question.source_port
    if question.ifindex is not None:
        return [_by_device(question, question.ifindex, lookups)]
    if address is None:
        return [_this_node(question, lookups)]
    shown = format_address(address)
    if is_loopback(address) or lookups.address_flags(address) & _OWN:
        return [Sender(Role.NODE, address, port, None, f"{shown} is an address of this node")]
    if any(backend.is_on_node for backend in lookups.backends_at(address)):
        why = f"{shown} is an endpoint on this node, so its packets come in by a pod's device"
        return [Sender(Role.POD, address, port, None, why)]
    why = f"no table says where {shown} is (--device would): this holds if it is "
    return [
        Sender(Role.POD, address, port, None, f"{why}a pod of this node"),
        Sender(Role.OUTSIDE, address, port, None, f"{why}outside, behind an uplink"),
    ]


def _by_device(question: Question, ifindex: int, lookups: Lookups) -> Sender:
    if not lookups.settings.packet_lb:
        raise UsageError("--device says nothing here: the packet layer is off")
    device = next((d for d in lookups.devices if d.ifindex == ifindex), None)
    if device is None:
        known = ", ".join(d.name for d in lookups.devices if d.is_uplink or d.is_pod)
        raise UsageError(f"device {ifindex} is none that vipbee follows; it follows {known}")
    role, what = Role.FORWARDED, "which runs no packet program"
    if device.is_loopback:
        role, what = Role.NODE, "which only this node's own packets come by"
    elif device.is_pod:
        role, what = Role.POD, "a pod's device"
    elif device.is_uplink:
        role, what = Role.OUTSIDE, "an uplink"
    why = f"its packets come in by {device.name}, {what}"
    return Sender(role, question.source, question.source_port, device, why)


def _this_node(question: Question, lookups: Lookups) -> Sender:
    """A program that left the choice of its address to the stack."""
    why = "a program of this node"
    flags = lookups.address_flags(question.address)
    if is_loopback(question.address) or flags & _OWN:  # then the stack takes the same
        return Sender(Role.NODE, question.address, None, None, why)
    family = family_of(question.address)
    uplinks = sorted(lookups.devices, key=lambda device: not device.is_uplink)
    for device in uplinks:
        address = device.address(family)
        if address is not None and not device.is_loopback:
            why += f", taken to send from {format_address(address)}, the address of {device.name}"
            return Sender(Role.NODE, address, None, None, why)
    own = lookups.own_addresses(family)
    return Sender(Role.NODE, own[0] if own else None, None, None, why)
