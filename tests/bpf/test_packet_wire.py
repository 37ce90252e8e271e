# SPDX-License-Identifier: Apache-2.0
"""The attached programs and what only devices make: tags, pieces, no Ethernet header."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers import inet
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from tests.support.eventually import eventually
from tests.support.packets import (
    NODE_V4,
    NODE_V6,
    PacketLab,
    ethernet,
    network_layer,
)
from tests.support.raw_devices import (
    attached,
    first_frame,
    in_pieces,
    tunnel,
    udp_super_packet,
    wire,
    without_offloads,
)
from tests.support.servers import TCP
from tests.support.servers import UDP as UDP_PROTOCOL
from tests.support.stacks import node_port, service_port
from vipbee.abi import DeviceFlag, MapName, Reason

Segment = inet.TCP
NODE_PORT = 30080
ENDS = {4: (IP, "203.0.113.7", NODE_V4), 6: (IPv6, "2001:db8:7::7", NODE_V6)}
REMOTE = {4: "10.244.2.9", 6: "fd00:10:244:2::9"}
BEHIND = {4: "198.51.100.7", 6: "2001:db8:51::7"}
TUNNEL = {4: "172.20.0.1", 6: "fd00:20::1"}

pytestmark = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 6), reason="tcx links are from 6.6"
)


@pytest.fixture(scope="module")
def lab(as_root: None) -> Iterator[PacketLab]:
    with PacketLab.up() as up:
        yield up


def syn(family: int, port: int, client: str | None = None) -> Packet:
    layer, stranger, node = ENDS[family]
    return layer(src=client or stranger, dst=node) / Segment(sport=port, dport=NODE_PORT, seq=1)


def clients(lab: PacketLab) -> set[int]:
    """Source ports of all connections that were opened from outside."""
    entries = lab.entries(MapName.CONNTRACK_NEW_OUTSIDE, "conntrack")
    return {int(key["source_port"]) for key, _ in entries}


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """(EtherType, VLAN id), outermost first."""
    return frame[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + frame[12:]


@pytest.mark.parametrize("family", [4, 6])
def test_d158_d159_a_tagged_packet_is_left_to_its_vlan_device(lab: PacketLab, family: int) -> None:
    """D158, D159: 802.1Q and QinQ pass untouched; id 0 is a priority, and no VLAN."""
    lab.clear_state()
    lab.program(service_port("web", node_port(family, NODE_PORT, TCP), [REMOTE[family]]))
    frames = [
        tagged(ethernet(syn(family, 40001)), (0x8100, 5)),
        tagged(ethernet(syn(family, 40002)), (0x88A8, 5), (0x8100, 7)),
        tagged(ethernet(syn(family, 40003)), (0x88A8, 5)),
        tagged(ethernet(syn(family, 40004)), (0x8100, 0x6000)),  # id 0, priority 3
        ethernet(syn(family, 40005)),
    ]
    program = lab.object_file.program_fd("vipbee_uplink_in")

    with lab.inside(), attached(program, lab.ifindex["up0"]), wire("up0-peer") as far_end:
        for frame in frames:
            far_end.send(frame)
        eventually(lambda: 40005 in clients(lab))

    assert clients(lab) == {40004, 40005}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("linear", [14, 20, 40])
def test_d16_headers_that_are_not_in_one_piece_are_read(
    lab: PacketLab, family: int, linear: int
) -> None:
    """D16: pulled together before they are read; a tap makes such packets of jumbo frames."""
    lab.clear_state()
    lab.program(service_port("dns", node_port(family, NODE_PORT, UDP_PROTOCOL), [REMOTE[family]]))
    before = lab.reasons().get(Reason.MALFORMED, 0)
    layer, client, node = ENDS[family]
    datagram = layer(src=client, dst=node) / UDP(sport=41000 + linear, dport=NODE_PORT)
    frame = ethernet(datagram / Raw(bytes(6000)))
    program = lab.object_file.program_fd("vipbee_uplink_in")

    with lab.inside(), tunnel("tap0", tap=True) as tap:
        subprocess.run(["ip", "link", "set", "tap0", "up", "mtu", "9000"], check=True)
        subprocess.run(["ip", "link", "set", "up0", "mtu", "9000"], check=True)
        lab.ifindex["tap0"] = socket.if_nametoindex("tap0")
        with attached(program, lab.ifindex["tap0"]):
            os.write(tap, in_pieces(frame, linear))
            eventually(lambda: bool(clients(lab)))

    assert clients(lab) == {41000 + linear}
    assert lab.reasons().get(Reason.MALFORMED, 0) == before


@pytest.mark.parametrize("family", [4, 6])
def test_d44_datagrams_in_one_super_packet_arrive_one_by_one(lab: PacketLab, family: int) -> None:
    """D36, D42, D44: UDP segmentation and checksums left to the device, DNAT and SNAT on the
    whole; each datagram on the wire is what Scapy would have sent."""
    lab.clear_state()
    lab.program(service_port("dns", node_port(family, NODE_PORT, UDP_PROTOCOL), [REMOTE[family]]))
    layer, client, node = ENDS[family]
    parts = [bytes([number]) * 1000 for number in range(5)]
    datagram = layer(src=client, dst=node) / UDP(sport=43000, dport=NODE_PORT)
    l4 = 14 + len(layer())
    frame = bytearray(ethernet(datagram / Raw(b"".join(parts))))
    ends = bytes(frame[26:34] if family == 4 else frame[22:54])
    length = struct.pack("!HH", 17, len(frame) - l4)
    struct.pack_into("!H", frame, l4 + 6, ~checksum(ends + length) & 0xFFFF)
    program = lab.object_file.program_fd("vipbee_uplink_in")

    with lab.inside(), tunnel("tap0", tap=True) as tap, wire("up0-peer") as far_end:
        without_offloads("up0")
        subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)
        lab.ifindex["tap0"] = socket.if_nametoindex("tap0")
        with attached(program, lab.ifindex["tap0"]):
            os.write(tap, udp_super_packet(bytes(frame), l4=l4, segment=1000))
            wanted = is_for(family, REMOTE[family])
            sent = [network_layer(first_frame(far_end, wanted)) for _ in parts]

    assert [bytes(packet[UDP].payload) for packet in sent] == parts
    for packet in sent:
        again = packet.copy()
        del again[UDP].chksum, again[UDP].len
        assert bytes(layer(bytes(again))[UDP]) == bytes(packet[UDP])


@pytest.mark.parametrize("family", [4, 6])
def test_d160_d175_in_by_a_device_without_ethernet_header_and_back(
    lab: PacketLab, family: int
) -> None:
    """D160, D175: from a tunnel to a remote backend by Ethernet, and the answer the other way;
    the header is put on where there was no room for one, and taken off again."""
    lab.clear_state()
    lab.program(service_port("web", node_port(family, NODE_PORT, TCP), [REMOTE[family]]))
    layer, _, node = ENDS[family]

    with lab.inside(), tunnel("tun0") as tun, wire("up0-peer") as far_end, programs(lab):
        os.write(tun, bytes(syn(family, 42000, BEHIND[family])))
        sent = network_layer(first_frame(far_end, is_for(family, REMOTE[family])))
        answer = layer(src=sent.dst, dst=sent.src) / Segment(
            sport=sent.dport, dport=sent.sport, flags="SA", seq=7, ack=2
        )
        far_end.send(ethernet(answer))
        shown = layer(first_frame(tun, lambda packet: layer(packet).dst == BEHIND[family]))

    assert (sent.src, sent.dport, sent.sport) == (node, 8080, 42000)
    assert (shown.src, shown.sport, shown.dport) == (node, NODE_PORT, 42000)
    expected = layer(bytes(shown))
    del expected[Segment].chksum
    assert bytes(layer(bytes(expected))) == bytes(shown)


@contextlib.contextmanager
def programs(lab: PacketLab) -> Iterator[None]:
    """tun0 with addresses and routes, uplink programs on it and on up0."""
    commands = ["link set tun0 up"]
    commands += [f"addr add {TUNNEL[4]}/30 dev tun0", f"addr add {TUNNEL[6]}/126 dev tun0 nodad"]
    commands += [f"route add {BEHIND[4]} dev tun0", f"route add {BEHIND[6]} dev tun0"]
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)
    lab.ifindex["tun0"] = socket.if_nametoindex("tun0")
    lab.set_device("tun0", TUNNEL[4], TUNNEL[6], DeviceFlag.UPLINK | DeviceFlag.L3)
    fd = lab.object_file.program_fd
    with (
        attached(fd("vipbee_uplink_in_l3"), lab.ifindex["tun0"]),
        attached(fd("vipbee_uplink_out_l3"), lab.ifindex["tun0"], egress=True),
        attached(fd("vipbee_uplink_in"), lab.ifindex["up0"]),
    ):
        yield


def is_for(family: int, address: str) -> object:
    kind = b"\x08\x00" if family == 4 else b"\x86\xdd"

    def wanted(frame: bytes) -> bool:
        return frame[12:14] == kind and network_layer(frame).dst == address

    return wanted
