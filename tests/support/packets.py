# SPDX-License-Identifier: Apache-2.0
"""Single packets through the shipped packet programs, with real routing behind them.

A private namespace has one uplink and one pod device, neither connected to anything, with
routes and permanent neighbours; programs run in it through BPF_PROG_TEST_RUN. The tables
are written by the product's own Desired.

    with PacketLab.up() as lab:
        lab.program(service_port("web", [node_port(4, 30080, TCP)], [remote_backend("10.244.2.9")]))
        result = lab.run("vipbee_uplink_in", ethernet(IP(...) / TCP(...)))
        assert result.verdict == REDIRECT

        uplink  192.0.2.1/24, 2001:db8:0:2::1/64      default route, other nodes, clients
        pods    10.244.1.1/24, fd00:10:244:1::1/64    pods of this node
        remote  10.244.2.0/24, fd00:10:244:2::/64     pods of another node, by the uplink
"""

from __future__ import annotations

import contextlib
import ctypes as c
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from vipbee.abi import AddressFlag, DeviceFlag, MapName, Reason
from vipbee.address import parse_address
from vipbee.core.desired import Desired
from vipbee.core.snapshot import Capacity
from vipbee.datapath import syscall
from vipbee.datapath.btf import OBJECT_PATH
from vipbee.datapath.features import PACKET_MAPS, SIZED_MAPS
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.libbpf import libbpf
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.programs import PACKET_PROGRAMS
from vipbee.datapath.syscall import PacketRun
from vipbee.model import ServiceName, ServicePort

PASS, DROP, REDIRECT = -1, 2, 7

NODE_V4, NODE_V6 = "192.0.2.1", "2001:db8:0:2::1"
GATEWAY_V4, GATEWAY_V6 = "192.0.2.254", "2001:db8:0:2::fe"
OTHER_NODE_V4, OTHER_NODE_V6 = "192.0.2.2", "2001:db8:0:2::2"
POD_GATEWAY_V4, POD_GATEWAY_V6 = "10.244.1.1", "fd00:10:244:1::1"
UPLINK_MAC, PODS_MAC = "02:00:00:00:02:01", "02:00:00:00:01:01"
PEER_MAC = "02:00:00:00:02:fe"

_SETUP = f"""
link set lo up
link add up0 address {UPLINK_MAC} type veth peer name up0-peer
link add pods0 address {PODS_MAC} type veth peer name pods0-peer
link set up0-peer up
link set pods0-peer up
link set up0 up
link set pods0 up
addr add {NODE_V4}/24 dev up0
addr add {NODE_V6}/64 dev up0 nodad
addr add {POD_GATEWAY_V4}/24 dev pods0
addr add {POD_GATEWAY_V6}/64 dev pods0 nodad
route add default via {GATEWAY_V4}
route add 10.244.2.0/24 via {OTHER_NODE_V4}
route add default via {GATEWAY_V6}
route add fd00:10:244:2::/64 via {OTHER_NODE_V6}
neigh add {GATEWAY_V4} lladdr {PEER_MAC} dev up0 nud permanent
neigh add {GATEWAY_V6} lladdr {PEER_MAC} dev up0 nud permanent
neigh add {OTHER_NODE_V4} lladdr {PEER_MAC} dev up0 nud permanent
neigh add {OTHER_NODE_V6} lladdr {PEER_MAC} dev up0 nud permanent
"""

NODE_ADDRESSES = {
    **{
        parse_address(a): int(AddressFlag.NODE | AddressFlag.OWN | AddressFlag.SNAT)
        for a in (NODE_V4, NODE_V6)
    },
    **{parse_address(a): int(AddressFlag.SNAT) for a in (POD_GATEWAY_V4, POD_GATEWAY_V6)},
}

_LIBC = c.CDLL(None, use_errno=True)


def ethernet(packet: Packet) -> bytes:
    """Frame an IP packet as it arrives at the uplink."""
    return bytes(Ether(dst=UPLINK_MAC, src=PEER_MAC) / packet)


def network_layer(frame: bytes) -> Packet:
    """The IP packet of an Ethernet frame, decoded."""
    packet = frame[14:]
    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)


class PacketLab:
    """See the module. Built by `up`."""

    def __init__(self, name: str, object_file: ObjectFile, entries: int) -> None:
        self.name = name
        self.layouts = load_layouts()
        self.object_file = object_file
        self.fds = {name: object_file.map_fd(name) for name in object_file.map_names}
        self.desired = Desired(self.layouts, Capacity(entries, entries, entries, entries, entries))
        self.ifindex: dict[str, int] = {}

    @classmethod
    @contextlib.contextmanager
    def up(
        cls,
        *,
        entries: int = 4096,
        programs: Sequence[str] = PACKET_PROGRAMS,
        path: Path = OBJECT_PATH,
        **config: int,
    ) -> Iterator[PacketLab]:
        """Load, set the namespace up, hand over, clean up. One name for each process."""
        name = f"vipbee-packets-{os.getpid()}"
        with ObjectFile.open(path) as object_file:
            object_file.set_max_entries(dict.fromkeys(SIZED_MAPS, entries))
            sized = {n: entries for n in PACKET_MAPS if "conntrack" in n or "nat_" in n}
            object_file.set_max_entries(sized)
            object_file.configure(**{"has_fib_mtu": 1, **config})
            object_file.keep_programs(programs)
            object_file.load()
            lab = cls(name, object_file, entries)
            lab._remove()
            try:
                lab._set_up()
                yield lab
            finally:
                lab._remove()

    def _set_up(self) -> None:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=_SETUP, text=True, check=True)
        with self.inside():
            for family in ("ipv4", "ipv6"):
                Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
            for device in ("lo", "up0", "pods0"):
                self.ifindex[device] = _ifindex(device)
        self.set_device("up0", NODE_V4, NODE_V6, DeviceFlag.UPLINK)
        self.set_device("pods0", POD_GATEWAY_V4, POD_GATEWAY_V6, DeviceFlag.POD)
        self.program()

    def _remove(self) -> None:
        if Path("/run/netns", self.name).exists():
            subprocess.run(["ip", "netns", "del", self.name], check=True)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread in the lab's namespace."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    # ---- tables ------------------------------------------------------------------------

    def set_device(self, name: str, v4: str, v6: str, flags: DeviceFlag, mtu: int = 1500) -> None:
        value = np.zeros(1, self.layouts["device"])
        value["v4"]["word"] = np.frombuffer(parse_address(v4), ">u4")
        value["v6"]["word"] = np.frombuffer(parse_address(v6), ">u4")
        value["mtu"], value["flags"] = mtu, int(flags)
        key = np.array([self.ifindex[name]], np.uint32)
        syscall.map_update(self.fds[MapName.DEVICES], key, value)

    def program(self, *ports: ServicePort) -> None:
        """Exactly these Service ports."""
        wanted: dict[ServiceName, list[ServicePort]] = {n: [] for n in _services(self.desired)}
        for port in ports:
            wanted.setdefault(port.key.service, []).append(port)
        for op in self.desired.update(wanted, NODE_ADDRESSES):
            fd = self.fds[op.map]
            for index in range(len(op.keys)):
                key = np.ascontiguousarray(op.keys[index : index + 1])
                if op.values is None:
                    syscall.map_delete(fd, key)
                else:
                    value = np.ascontiguousarray(op.values[index : index + 1])
                    syscall.map_update(fd, key, value)

    def entries(
        self, name: MapName, value: str, key: str = "flow_tuple"
    ) -> list[tuple[np.void, np.void]]:
        """Everything in a connection map: (key, value) records."""
        found = []
        fd = self.fds[name]
        current = np.zeros(1, self.layouts[key])
        more = syscall.map_next_key(fd, None, current)
        while more:
            record = np.zeros(1, self.layouts[value])
            if syscall.map_lookup(fd, current, record):
                found.append((current[0].copy(), record[0].copy()))
            following = np.zeros(1, self.layouts[key])
            more = syscall.map_next_key(fd, current, following)
            current = following
        return found

    def clear_state(self) -> None:
        """Forget every connection and fragment."""
        for name in PACKET_MAPS:
            if name in (MapName.DEVICES, MapName.SOURCE_RANGES) or name.endswith("s"):
                continue
            for key, _ in self.entries(
                MapName(name), "nat" if name.startswith("nat") else "conntrack"
            ):
                syscall.map_delete(self.fds[name], np.array([key], self.layouts["flow_tuple"]))

    def reasons(self) -> dict[Reason, int]:
        """Reasons that were counted, by reason; zero ones left out."""
        totals = {}
        cpus = int(libbpf().libbpf_num_possible_cpus())
        for reason in Reason:
            counts = np.zeros(cpus, np.uint64)
            syscall.map_lookup(self.fds[MapName.REASONS], np.array([reason], np.uint32), counts)
            if counts.sum():
                totals[reason] = int(counts.sum())
        return totals

    # ---- runs --------------------------------------------------------------------------

    def run(
        self,
        program: str,
        frame: bytes,
        *,
        device: str = "up0",
        gso: tuple[int, int] = (0, 0),
        repeat: int = 1,
    ) -> PacketRun:
        fd = self.object_file.program_fd(program)
        with self.inside():
            return syscall.prog_run_packet(
                fd, frame, ifindex=self.ifindex[device], gso=gso, repeat=repeat
            )


def _services(desired: Desired) -> list[ServiceName]:
    return list(desired.ports)


def _ifindex(name: str) -> int:
    import socket

    return socket.if_nametoindex(name)


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, 0x40000000):
        raise OSError(c.get_errno(), "setns")
