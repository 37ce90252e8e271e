# SPDX-License-Identifier: Apache-2.0
"""The way to a backend and what it sees as source: choose_path() of bpf/open_connection.h.

Where the kernel's routes decide, all answers they could give are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vipbee.abi import AddressFlag
from vipbee.address import family_of, format_address
from vipbee.observe.explain.choice import Likely
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.records import Backend, Device
from vipbee.observe.explain.senders import Sender
from vipbee.observe.explain.story import Story
from vipbee.observe.explain.view import CandidateView, Path, Role, Step
from vipbee.observe.services import state_of

_NODE_S = AddressFlag.OWN | AddressFlag.SNAT
_SERVICE_S = AddressFlag.CLUSTER_IP | AddressFlag.EXTERNAL


class Way(NamedTuple):
    path: Path
    seen_as: tuple[bytes, ...]  # none: no device has an address of the family
    says: str
    rules: tuple[str, ...]


def way_to(backend: Backend, sender: Sender, destination: bytes, lookups: Lookups) -> Way:
    """Of a packet of this sender to this VIP."""
    assert sender.address is not None
    if sender.role is Role.NODE:
        return _from_node(backend, sender, destination, lookups)
    is_hairpin = sender.role is Role.POD and backend.address == sender.address
    if _is_masqueraded(destination, lookups) and not is_hairpin:
        return _masqueraded(backend, sender, lookups)
    if sender.role is Role.POD:
        return _from_pod(backend, sender, lookups)
    if backend.is_on_node or _is_this_node(backend, lookups):
        says = "to a backend on this node: destination rewritten, on through the stack"
        return Way(Path.STACK, (sender.address,), says, ("R48",))
    seen = _addresses(lookups, sender.address, is_pod=False)
    says = "to a backend elsewhere: sent by the route with the address of the device it leaves by"
    return Way(Path.REDIRECT, _distinct(seen), f"{says}, {_show(seen)}", ("R60",))


def _is_masqueraded(destination: bytes, lookups: Lookups) -> bool:
    """Do backends of this VIP see an address of the node, whoever asks? (R56)"""
    is_cluster_ip = lookups.address_flags(destination) & AddressFlag.CLUSTER_IP
    return bool(lookups.settings.masquerade_all and is_cluster_ip)


def _masqueraded(backend: Backend, sender: Sender, lookups: Lookups) -> Way:
    assert sender.address is not None
    if _is_this_node(backend, lookups):
        says = "to a program of this node: nothing leaves, so the source is kept"
        return Way(Path.STACK, (sender.address,), says, ("R56",))
    seen = _addresses(lookups, sender.address, is_pod=backend.is_on_node)
    says = "masquerade-all: sent by the route with the address of the device it leaves by"
    return Way(Path.REDIRECT, _distinct(seen), f"{says}, {_show(seen)}", ("R56",))


def _from_pod(backend: Backend, sender: Sender, lookups: Lookups) -> Way:
    assert sender.address is not None
    if backend.address != sender.address:
        says = "from a pod: destination rewritten, on through the stack, source kept"
        return Way(Path.STACK, (sender.address,), says, ("R55",))
    if sender.device is not None:
        address = sender.device.address(family_of(sender.address))
        seen = [] if address is None else [(sender.device, address)]
    else:
        seen = _addresses(lookups, sender.address, is_pod=True)
    says = "to the very pod it comes from: sent back with the address of its device"
    return Way(Path.HAIRPIN, _distinct(seen), f"{says}, {_show(seen)}", ("R59",))


def _from_node(backend: Backend, sender: Sender, destination: bytes, lookups: Lookups) -> Way:
    """`choose_path_from_node()`."""
    source = sender.address
    assert source is not None
    keeps = not lookups.address_flags(source) & _SERVICE_S
    devices = _addresses(lookups, source, is_pod=backend.is_on_node)
    if _is_this_node(backend, lookups):
        seen = (source,) if keeps else _loopback_address(lookups, source)
        return Way(Path.LOOPBACK, seen, "to a program of this node, by loopback", ("R51",))
    if backend.is_on_node and keeps:
        says = "to a pod of this node: sent by the route, source kept"
        return Way(Path.REDIRECT, (source,), says, ("R51",))
    says = f"sent by the route with the address of the device it leaves by, {_show(devices)}"
    seen = _distinct(devices)
    is_by_loopback = bool(lookups.address_flags(destination) & _NODE_S)
    if keeps and not is_by_loopback and source not in seen:
        says += f"; source kept if that is the way to {format_address(destination)} too"
        seen = (source, *seen)
    return Way(Path.REDIRECT, seen, says, ("R51", "R60"))


def _is_this_node(backend: Backend, lookups: Lookups) -> bool:
    """The route to it is local."""
    return bool(lookups.address_flags(backend.address) & AddressFlag.SNAT)


def _addresses(lookups: Lookups, like: bytes, *, is_pod: bool) -> list[tuple[Device, bytes]]:
    """Devices a packet may leave by, with their addresses of the family."""
    family = family_of(like)
    found = []
    for device in lookups.devices:
        address = device.address(family)
        if address is not None and device.is_pod == is_pod and not device.is_loopback:
            found.append((device, address))
    return found


def _loopback_address(lookups: Lookups, like: bytes) -> tuple[bytes, ...]:
    family = family_of(like)
    found = (device.address(family) for device in lookups.devices if device.is_loopback)
    return tuple(address for address in found if address is not None)


def _distinct(seen: Iterable[tuple[Device, bytes]]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(address for _, address in seen))


def _show(seen: Sequence[tuple[Device, bytes]]) -> str:
    """`172.30.0.1 (eth0, eth1) or 10.0.0.1 (vxlan0)`."""
    names: dict[bytes, list[str]] = {}
    for device, address in seen:
        names.setdefault(address, []).append(device.name)
    shown = [f"{format_address(a)} ({', '.join(devices)})" for a, devices in names.items()]
    return " or ".join(shown) or "which none has: SNAT_NO_ADDRESS"


def candidates(
    story: Story, likely: Sequence[Likely], sender: Sender, destination: bytes, lookups: Lookups
) -> list[CandidateView]:
    """Tell each way once."""
    found, told = [], set()
    for each in likely:
        way = way_to(each.backend, sender, destination, lookups)
        if way.says not in told:
            told.add(way.says)
            story.say(Step.PATH, way.says, *way.rules)
        found.append(candidate(each, way.path, way.seen_as))
    return found


def candidate(likely: Likely, path: Path, seen_as: Iterable[bytes]) -> CandidateView:
    backend = likely.backend
    return CandidateView(
        address=format_address(backend.address),
        port=backend.port,
        share_percent=likely.share_percent,
        state=state_of(backend.flags),
        node_local=backend.is_on_node,
        path=path,
        seen_as=[format_address(address) for address in seen_as],
    )
