# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: its other hosts and pods, each a process in a network namespace.

    client 192.0.2.2 ──────────── up0  192.0.2.1 ┐
           192.0.3.2 VLAN 5 ───── up0.5      .1  │ node      ┌ down0 10.244.2.1 ── far .2
           192.0.4.2 IPIP, SIT ── tun4, tun6 .1  │ (the      │ net4, net6
           192.0.5.1 is routed:   anycast0         │  guest)   │ 10.244.3.1 IPIP, SIT ── .2
                                                 └───────────┤
                                                             └ pod0 ── near 10.244.4.2

and the same with fd00:2:2:: … fd00:2:5:: and fd00:10:244:2:: … 4::. The client knows the
node's way to everything; `far` knows pods, but not the client: only SNAT brings answers
back to it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute

from tests.kernels import guest_traffic as traffic

FAMILIES = (4, 6)
CLONE_NEWNET = 0x40000000
VLAN_ID = 5
TUNNELS = {4: "ipip", 6: "sit"}
"""Which tunnel over IPv4 carries packets of a family: both without Ethernet header."""
PATIENCE = 8
"""Timeouts of one place before nothing more is asked of it."""
ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


class Network(NamedTuple):
    """One network in both families; its hosts are numbered."""

    prefix4: str
    prefix6: str

    def host(self, number: int) -> dict[int, str]:
        """Its addresses by family."""
        return {4: f"{self.prefix4}.{number}", 6: f"{self.prefix6}::{number}"}

    @property
    def prefixes(self) -> tuple[str, str]:
        return f"{self.prefix4}.0/24", f"{self.prefix6}::/64"


OUTSIDE = Network("192.0.2", "fd00:2:2")
VLAN = Network("192.0.3", "fd00:2:3")
TUNNEL = Network("192.0.4", "fd00:2:4")
DUMMY = Network("192.0.5", "fd00:2:5")
BESIDE = Network("10.244.2", "fd00:10:244:2")
BEYOND = Network("10.244.3", "fd00:10:244:3")
PODS = Network("10.244.4", "fd00:10:244:4")
NODE_PORT_ADDRESSES = "192.0.0.0/16,fd00:2::/32"


class Place:
    """A child in a namespace of its own that does what it is told until it is closed."""

    def __init__(self) -> None:
        self._patience = PATIENCE
        self._ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self._ours.close()
            try:
                _obey(theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._lines = self._ours.makefile("rw")
        self._lines.readline()  # it is in its namespace

    def do(self, name: str, *arguments: object, **named: object) -> Any:
        """Call a function of `_Orders` there; its result, or the name of its error."""
        if self._patience <= 0:
            return "not tried after so many timeouts"  # so that the guest comes to its report
        self._lines.write(json.dumps([name, arguments, named]) + "\n")
        self._lines.flush()
        result = json.loads(self._lines.readline())
        self._patience -= result == traffic.TIMED_OUT
        return result

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # later children hold its socket: it sees no end
        os.waitpid(self.pid, 0)
        self._lines.close()
        self._ours.close()


@contextmanager
def places() -> Iterator[tuple[Place, Place, Place]]:
    """The client, the far host and the near pod; all their devices are up."""
    _prepare_namespace(forwards=True)
    client, far, near = made = (Place(), Place(), Place())
    _join("up0", OUTSIDE.host(1), client, OUTSIDE.host(2))
    _join("down0", BESIDE.host(1), far, BESIDE.host(2))
    _join("pod0", PODS.host(1), near, PODS.host(2), host_only=True)
    client.do("route", list(ANYWHERE.values()), list(OUTSIDE.host(1).values()))
    near.do("route", list(ANYWHERE.values()), list(PODS.host(1).values()))
    far.do("route", list(PODS.prefixes), list(BESIDE.host(1).values()))
    _Orders().vlan("up0", list(VLAN.host(1).values()))
    client.do("vlan", "eth0", list(VLAN.host(2).values()))
    for family, kind in TUNNELS.items():
        for place, device, network, under in (
            (client, "tun", TUNNEL, OUTSIDE),
            (far, "net", BEYOND, BESIDE),
        ):
            ends = under.host(1)[4], under.host(2)[4]
            _Orders().tunnel(f"{device}{family}", kind, *ends, network.host(1)[family])
            place.do("tunnel", f"{device}{family}", kind, *ends[::-1], network.host(2)[family])
    _Orders().dummy("anycast0", list(DUMMY.host(1).values()))
    for name, place, hosts in (
        ("near", near, [PODS.host(2)]),
        ("far", far, [BESIDE.host(2), BEYOND.host(2)]),
    ):
        for addresses in hosts:
            place.do("serve", name, list(addresses.values()))
    try:
        yield made
    finally:
        for place in made:
            place.close()


def _join(
    device: str,
    own: dict[int, str],
    place: Place,
    theirs: dict[int, str],
    *,
    host_only: bool = False,
) -> None:
    with IPRoute() as route:
        peer = {"ifname": "eth0", "net_ns_pid": place.pid}
        route.link("add", ifname=device, kind="veth", peer=peer)
        _raise(route, device, own.values(), host_only=host_only)
        place.do("up", "eth0", list(theirs.values()))
        if host_only:
            index = route.link_lookup(ifname=device)[0]
            for address in theirs.values():
                route.route("add", dst=f"{address}/{_bits(address)}", oif=index)


def _obey(control: socket.socket) -> None:
    ctypes.CDLL(None).unshare(CLONE_NEWNET)
    _prepare_namespace(forwards=False)
    orders = _Orders()
    with control.makefile("rw") as lines:
        lines.write("here\n")
        lines.flush()
        for line in lines:
            name, arguments, named = json.loads(line)
            result = traffic.attempt(lambda: getattr(orders, name)(*arguments, **named))  # noqa: B023
            lines.write(json.dumps(result) + "\n")
            lines.flush()


class _Orders:
    """What can be done in a namespace."""

    ask = staticmethod(traffic.ask)
    serve = staticmethod(traffic.serve)
    stream = staticmethod(traffic.stream)

    def __init__(self) -> None:
        sessions = traffic.Sessions()
        self.begin, self.who = sessions.begin, sessions.who

    def up(self, device: str, addresses: list[str]) -> None:
        with IPRoute() as route:
            _raise(route, device, addresses)

    def route(self, destinations: list[str], gateways: list[str]) -> None:
        with IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            for destination, gateway in zip(destinations, gateways, strict=True):
                route.route("add", dst=destination, gateway=gateway, oif=index)

    def vlan(self, parent: str, addresses: list[str]) -> None:
        with IPRoute() as route:
            index, name = route.link_lookup(ifname=parent)[0], f"{parent}.{VLAN_ID}"
            route.link("add", ifname=name, kind="vlan", link=index, vlan_id=VLAN_ID)
            _raise(route, name, addresses)

    def tunnel(self, name: str, kind: str, local: str, remote: str, address: str) -> None:
        ends = {f"{kind}_local": local, f"{kind}_remote": remote}
        with IPRoute() as route:
            route.link("add", ifname=name, kind=kind, **ends)
            _raise(route, name, [address])

    def dummy(self, name: str, addresses: list[str]) -> None:
        with IPRoute() as route:
            route.link("add", ifname=name, kind="dummy")
            _raise(route, name, addresses, host_only=True)


def _raise(
    route: IPRoute, device: str, addresses: Iterable[str], *, host_only: bool = False
) -> None:
    index = route.link_lookup(ifname=device)[0]
    for address in addresses:
        length = _bits(address) if host_only else 64 if ":" in address else 24
        route.addr("add", index=index, address=address, prefixlen=length)
    route.link("set", index=index, state="up")


def _bits(address: str) -> int:
    return 128 if ":" in address else 32


def _prepare_namespace(*, forwards: bool) -> None:
    """Before devices come: addresses are usable at once, without a search for duplicates."""
    settings = {"ipv6/conf/default/accept_dad": 0, "ipv6/conf/default/dad_transmits": 0}
    settings |= {"ipv4/ip_forward": int(forwards), "ipv6/conf/all/forwarding": int(forwards)}
    for name, value in settings.items():
        Path("/proc/sys/net", name).write_text(str(value))
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname="lo")[0], state="up")


def set_mtu(device: str, mtu: int) -> None:
    """Of a device of the node alone: its peer goes on announcing large segments."""
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname=device)[0], mtu=mtu)
