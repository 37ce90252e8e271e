# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: hosts and pods that no socket hook sees dial through VIPs.

Reports what it saw and asserts nothing, so that the host's tests name each fact.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.kernels.guest_places import (
    DUMMY,
    FAMILIES,
    NODE_PORT_ADDRESSES,
    OUTSIDE,
    TUNNEL,
    VLAN,
    Place,
    set_mtu,
)
from tests.kernels.guest_product import kill_agent, start_agent, vipbee
from tests.kernels.guest_traffic import attempt, serve
from vipbee.datapath import clsact, syscall
from vipbee.datapath.devices import read_devices

CONFIG = Path("/guest/agent.yaml")
UNSERVED = ("shut-near", "shut-far", "nobody")
NUMBERS = {"near": 81, "far": 82, "beyond": 83, "shut-near": 84, "shut-far": 85, "nobody": 86}
"""Service → last part of its addresses; its NodePorts are 30000 + this."""
LEAVES_OUTER_HEADERS = tuple(map(int, os.uname().release.split(".")[:2])) < (5, 14)
"""What comes out of a tunnel here is left to the stack: no use in waiting for it."""
REACHED = [name for name in NUMBERS if name != "beyond" or not LEAVES_OUTER_HEADERS]
"""Services that clients outside reach."""
SERVED = [name for name in REACHED if name not in UNSERVED]
ADDRESSES = {
    "ClusterIP": {4: "10.97.0.{}", 6: "fd00:10:97::{}"},
    "LoadBalancer": {4: "172.31.1.{}", 6: "fd00:172:31:1::{}"},
    "externalIP": {4: "172.31.2.{}", 6: "fd00:172:31:2::{}"},
}
PROTOCOLS = ("TCP", "UDP")
LARGE = 4000  # bytes of a datagram: three fragments
MUCH = 200_000  # bytes of a stream
SMALL_MTU = 1300
OTHERS_QDISC = "down0"
"""Has a clsact qdisc before the agent starts."""


def frontend(kind: str, service: str, family: int) -> tuple[str, int]:
    number = NUMBERS[service]
    if kind == "NodePort":
        return OUTSIDE.host(1)[family], 30000 + number
    return ADDRESSES[kind][family].format(number), 80


def see(client: Place, far: Place, near: Place) -> dict[str, object]:
    """What happens with an agent that serves packets too."""
    CONFIG.write_text("packet-lb: true\n")
    options = ("--config", str(CONFIG), "--nodeport-addresses", NODE_PORT_ADDRESSES)
    clsact.ensure_qdisc(next(i for i, d in read_devices().items() if d.name == OTHERS_QDISC))
    seen: dict[str, object] = {"before": list(hooks())}
    agent = start_agent(*options)
    seen["status"] = status()
    seen |= asked_from_outside(client)
    seen |= asked_by_a_pod(near)
    seen |= other_devices(client)
    seen |= streams(client, near)
    seen |= behind_a_small_mtu(client)
    sessions = {
        f"{service} {family}": client.do("begin", *frontend("NodePort", service, family))
        for service in ("near", "far")
        for family in FAMILIES
    }
    who = partial(client.do, "who")
    seen["sessions"] = {name: [who(number)] for name, number in sessions.items()}
    kill_agent(agent)
    for name, number in sessions.items():
        seen["sessions"][name].append(who(number))
    seen["status without agent"] = status()
    seen["asked without agent"] = client.do("ask", "TCP", *frontend("NodePort", "far", 4))
    agent = start_agent(*options)
    for name, number in sessions.items():
        seen["sessions"][name].append(who(number))
    seen["asked after restart"] = client.do("ask", "TCP", *frontend("NodePort", "far", 4))
    kill_agent(agent)
    seen["cleanup"] = vipbee("cleanup")
    seen["after"] = list(hooks())
    seen["asked after cleanup"] = client.do("ask", "TCP", *frontend("NodePort", "far", 4))
    return seen


def asked_from_outside(client: Place) -> Iterator[tuple[str, object]]:
    for family in FAMILIES:
        for protocol in PROTOCOLS:
            for kind in ("NodePort", "LoadBalancer", "externalIP"):
                for service in REACHED:
                    name = f"outside {kind} {service} {protocol} {family}"
                    yield name, client.do("ask", protocol, *frontend(kind, service, family))
        for service in ("near", "far"):
            place = frontend("NodePort", service, family)
            yield f"large {service} {family}", client.do("ask", "UDP", *place, size=LARGE)


def asked_by_a_pod(near: Place) -> Iterator[tuple[str, object]]:
    """`near` is asked by itself: hairpin."""
    for family in FAMILIES:
        for protocol in PROTOCOLS:
            for kind in ("ClusterIP", "NodePort", "LoadBalancer"):
                for service in NUMBERS:
                    name = f"pod {kind} {service} {protocol} {family}"
                    yield name, near.do("ask", protocol, *frontend(kind, service, family))


def other_devices(client: Place) -> Iterator[tuple[str, object]]:
    """The node's addresses behind a VLAN tag, in a tunnel, and on a dummy device."""
    for device, network in (("VLAN", VLAN), ("tunnel", TUNNEL), ("dummy", DUMMY)):
        for family, address in network.host(1).items():
            for service in SERVED:
                for protocol in PROTOCOLS:
                    name = f"{device} {service} {protocol} {family}"
                    yield name, client.do("ask", protocol, address, 30000 + NUMBERS[service])
    for family, address in OUTSIDE.host(1).items():
        port = 30000 + NUMBERS["far"]
        attempt(partial(serve, "node", [address], port, "SCTP"))
        yield f"SCTP {family}", client.do("ask", "SCTP", address, port)


def streams(client: Place, near: Place) -> Iterator[tuple[str, object]]:
    """Much data through each path, in segments that a device would cut."""
    for family in FAMILIES:
        for service in SERVED:
            place = frontend("NodePort", service, family)
            yield f"stream {service} {family}", client.do("stream", *place, MUCH)
        place = frontend("ClusterIP", "far", family)
        yield f"stream from pod {family}", near.do("stream", *place, MUCH)


def behind_a_small_mtu(client: Place) -> Iterator[tuple[str, object]]:
    """The client learns it from the errors it gets, or hangs."""
    before = now = status()["reasons"]["too_big"]
    set_mtu("down0", SMALL_MTU)
    for _ in range(5):  # where the agent has to tell the datapath, until it has
        for family in FAMILIES:
            place = frontend("LoadBalancer", "far", family)
            yield f"small MTU {family}", client.do("stream", *place, MUCH, back=False)
        now = status()["reasons"]["too_big"]
        if now > before:
            break
    yield "too big", now - before
    set_mtu("down0", 1500)


def status() -> Any:
    return json.loads(str(vipbee("status", "-o", "json")["output"]))


def hooks() -> Iterator[list[object]]:
    """Everybody's programs and qdiscs on the devices of the node."""
    for ifindex, device in read_devices().items():
        for parent in (clsact.INGRESS, clsact.EGRESS):
            for found in clsact.read_filters(ifindex, parent):
                yield [device.name, "filter", found.name]
        for direction in (syscall.TCX_INGRESS, syscall.TCX_EGRESS):
            with contextlib.suppress(OSError):  # below 6.6
                yield from ([device.name, "link"] for _ in syscall.tcx_links(ifindex, direction))
        with contextlib.suppress(OSError):  # not on this device
            if clsact.ensure_qdisc(ifindex):
                clsact.remove_qdisc(ifindex)  # there was none
            else:
                yield [device.name, "clsact"]
