# SPDX-License-Identifier: Apache-2.0
"""Which devices run packet programs, by themselves and as the operator says."""

from __future__ import annotations

import pytest

from vipbee.abi import DeviceFlag
from vipbee.address import parse_address
from vipbee.datapath.attach_tc import Direction, directions, program_name
from vipbee.datapath.device_roles import decide_roles, matches
from vipbee.datapath.device_table import render_devices
from vipbee.datapath.devices import Device
from vipbee.datapath.layouts import load_layouts

UPLINK, POD, L3, NONE = DeviceFlag.UPLINK, DeviceFlag.POD, DeviceFlag.L3, DeviceFlag(0)


def device(ifindex: int, name: str, kind: str = "", *addresses: str, **more: bool | int) -> Device:
    """`addresses` as ADDRESS/LENGTH."""
    parsed = tuple(
        (parse_address(address), int(length))
        for address, _, length in (text.partition("/") for text in addresses)
    )
    return Device(ifindex, name, kind, 1500, addresses=parsed, **more)  # type: ignore[arg-type]


LO = device(1, "lo", "", "10.1.1.1/32", is_loopback=True)
ETH0 = device(2, "eth0", "", "192.0.2.1/24", has_default_route=True)
POD_VETH = device(9, "cali1", "veth", has_foreign_peer=True)


def roles(
    *devices: Device, uplinks: tuple[str, ...] = (), pods: tuple[str, ...] = ()
) -> dict[str, DeviceFlag]:
    found = decide_roles({d.ifindex: d for d in devices}, uplinks, pods)
    return {role.device.name: role.flags for role in found.values() if role.device is not LO}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (ETH0, UPLINK),
        (device(3, "eth1", "", "198.51.100.1/24"), UPLINK),
        (device(3, "eth1"), NONE),  # no address: nobody sends to it
        (device(3, "bond0.7", "vlan", "198.51.100.1/24"), UPLINK),
        (device(3, "eth0", "veth", "172.18.0.2/16", has_foreign_peer=True), UPLINK),  # kind
        (POD_VETH, POD),
        (device(9, "vethb", "veth", has_foreign_peer=True, master=5), POD),
        (device(9, "ptp", "veth", "10.244.0.1/32", has_foreign_peer=True), POD),  # CNI ptp
        (device(9, "vnet0", "tun", master=5), POD),  # a VM's tap
        (device(9, "inner", "veth"), NONE),  # both ends here
        (device(4, "overlay", "vxlan"), UPLINK),
        (device(4, "wg0", "wireguard", has_ethernet=False), UPLINK | L3),
        (device(4, "tun0", "tun", "10.8.0.1/24", has_ethernet=False), UPLINK | L3),
        (device(4, "tunl0", "ipip", has_ethernet=False), L3),  # made by the module
        (device(4, "tunl0", "ipip", "10.244.0.0/32", has_ethernet=False), UPLINK | L3),  # Calico
        (device(4, "kube-ipvs0", "dummy", "10.96.0.1/32"), NONE),
    ],
    ids=lambda value: value.name if isinstance(value, Device) else "",
)
def test_a_device_has_the_role_of_its_kind(subject: Device, expected: DeviceFlag) -> None:
    assert roles(LO, subject)[subject.name] == expected


def test_loopback_has_a_role_of_its_own_and_lends_none_of_its_addresses() -> None:
    """A VIP may stand there."""
    found = decide_roles({1: LO, 2: ETH0}, uplinks=("lo", "eth0"))

    _, values = render_devices(load_layouts(), found, [parse_address("192.0.2.1")])

    assert found[1].flags == DeviceFlag.LOOPBACK
    assert values[0]["v4"].tobytes() == parse_address("192.0.2.1")


def test_loopback_runs_a_program_on_the_way_out_only() -> None:
    assert directions(DeviceFlag.LOOPBACK) == (Direction.EGRESS,)
    assert program_name(DeviceFlag.LOOPBACK, Direction.EGRESS) == "vipbee_uplink_out"


def test_a_bridge_of_pods_is_no_uplink_but_one_with_a_wire_is() -> None:
    """Packets of its pods have passed the programs of their own devices."""
    bridge = device(5, "cni0", "bridge", "10.244.1.1/24")
    pod = device(9, "veth9", "veth", has_foreign_peer=True, master=5)
    wire = device(3, "eth1", master=5)

    assert roles(bridge) == {"cni0": NONE}
    assert roles(bridge, pod) == {"cni0": NONE, "veth9": POD}
    assert roles(bridge, pod, wire) == {"cni0": UPLINK, "veth9": POD, "eth1": NONE}


def test_a_bridge_with_the_default_route_is_an_uplink() -> None:
    bridge = device(5, "br0", "bridge", "192.0.2.1/24", has_default_route=True)

    assert roles(bridge) == {"br0": UPLINK}


def test_what_the_operator_names_is_all_there_is() -> None:
    other = device(3, "eth1", "", "198.51.100.1/24")

    assert roles(ETH0, other, POD_VETH, uplinks=("eth1",)) == {
        "eth0": NONE,
        "eth1": UPLINK,
        "cali1": POD,
    }
    assert roles(ETH0, POD_VETH, pods=("veth+",)) == {"eth0": UPLINK, "cali1": NONE}
    assert roles(ETH0, POD_VETH, uplinks=("cali+",)) == {"eth0": NONE, "cali1": UPLINK}


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("eth0", "eth0", True),
        ("eth0", "eth+", True),
        ("eth", "eth+", True),
        ("eth01", "eth0", False),
        ("veth0", "eth+", False),
        ("anything", "+", True),
    ],
)
def test_plus_stands_for_any_rest(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, [pattern]) is expected


def test_a_device_without_address_lends_the_nodes() -> None:
    """The address a packet leaves with: the device's own, else the preferred one (SNAT)."""
    tunnel = device(4, "overlay", "vxlan", "10.244.1.0/32")
    found = decide_roles({d.ifindex: d for d in (ETH0, tunnel, POD_VETH)})
    node = [parse_address("192.0.2.1"), parse_address("2001:db8::1")]

    keys, values = render_devices(load_layouts(), found, node)

    rendered = {
        key: (value["v4"].tobytes(), value["v6"].tobytes())
        for key, value in zip(keys.tolist(), values, strict=True)
    }
    assert rendered == {
        2: (node[0], node[1]),
        4: (parse_address("10.244.1.0"), node[1]),
        9: (node[0], node[1]),
    }


def test_ports_of_the_named_bridge_are_pods_and_nothing_else_is() -> None:
    """R57, mode BridgeInterface: also a port that no other rule would take for a pod's."""
    bridge = Device(20, "cni0", "bridge", 1500)
    port = Device(21, "tap7", "", 1500, master=20)
    other = Device(22, "veth9", "veth", 1500, has_foreign_peer=True)

    found = decide_roles({d.ifindex: d for d in (bridge, port, other)}, pod_bridge="cni0")

    assert found[21].flags == DeviceFlag.POD
    assert found[20].flags == found[22].flags == DeviceFlag(0)
