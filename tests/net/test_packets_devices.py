# SPDX-License-Identifier: Apache-2.0
"""Packet programs follow the devices of a node, and leave what others attached alone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.packet_lab import CONFIG, ask, balancer_ip, external_ip, packet_lab
from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import clsact, syscall
from vipbee.datapath.attach_tc import Direction, PacketHooks, remove_filters, remove_links
from vipbee.datapath.device_notices import device_changes
from vipbee.datapath.device_roles import decide_roles
from vipbee.datapath.devices import read_devices
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.datapath.pins import PinDirectory
from vipbee.lab import Lab
from vipbee.lab.agent import cli_command

NODE = "node-1"
WITHIN_S = 1.0  # interface: attached within 1 s
Links = tuple[tuple[int, ...], tuple[int, ...]]
NONE: Links = ((), ())


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name) as lab:
        yield lab


def ip(lab: Lab, command: str, node: str = NODE) -> None:
    done = lab.node(node).run(["ip", *command.split()])
    assert done.returncode == 0, done.stderr


def links(lab: Lab, device: str, node: str = NODE) -> Links:
    """Ids of the tcx links at ingress and egress; none if there is no such device."""

    def read() -> Links:
        try:
            ifindex = socket.if_nametoindex(device)
        except OSError:
            return NONE
        return (
            syscall.tcx_links(ifindex, syscall.TCX_INGRESS),
            syscall.tcx_links(ifindex, syscall.TCX_EGRESS),
        )

    return lab.node(node).inside(read)


def is_attached(lab: Lab, device: str) -> bool:
    return all(len(found) == 1 for found in links(lab, device))


def devices_of(lab: Lab, node: str = NODE) -> dict[str, dict[str, object]]:
    status = json.loads(lab.agent(node).vipbee(["status", "-o", "json"]).stdout)
    return {device["name"]: device for device in status["devices"]}


def pinned(lab: Lab, node: str = NODE) -> set[str]:
    directory = PinDirectory(lab.agent(node).bpf_root / LAYOUT_VERSION)
    return {name for name in directory.names("links") if name.startswith("tc-")}


def add_pod_device(lab: Lab, name: str, *, index: int = 0) -> None:
    far = lab.blueprint.client.namespace
    number = f" index {index}" if index else ""
    ip(lab, f"link add {name}{number} type veth peer name {name}p netns {far}")
    ip(lab, f"link set {name} up")


def test_devices_are_found_with_their_roles(lab: Lab) -> None:
    found = devices_of(lab)

    assert found["eth0"]["role"] == "uplink"
    assert {name: device["role"] for name, device in found.items() if name != "eth0"} == {
        f"veth{number}": "pod" for number in (2, 3, 4, 5)
    }
    assert {str(device["by"]) for device in found.values()} == {"tcx"}
    assert "lo" not in found


def test_status_is_the_same_from_another_network_namespace(lab: Lab) -> None:
    """interface.md §4: numbers of devices mean something else there, and mostly nothing."""
    done = subprocess.run(
        cli_command(["status", "-o", "json", f"--bpf-root={lab.agent(NODE).bpf_root}"]),
        capture_output=True,
        text=True,
        check=True,
    )
    from_here = json.loads(done.stdout)

    assert {device["name"]: device for device in from_here["devices"]} == devices_of(lab)
    assert not [sentence for sentence in from_here["degraded"] if "packet programs" in sentence]


def test_a_number_that_no_device_has_carries_no_link() -> None:
    """`vipbee cleanup` asks this of another node's numbers."""
    assert syscall.tcx_links(2**30, syscall.TCX_INGRESS) == ()


def test_a_new_pod_device_is_attached_and_let_go_with_it(lab: Lab) -> None:
    """D161: appear, down, up, MTU, MAC, rename, vanish."""
    before = pinned(lab)
    add_pod_device(lab, "vnew")
    took = eventually(lambda: is_attached(lab, "vnew"), within_s=WITHIN_S)
    at_first = links(lab, "vnew")

    for change in ("down", "up", "mtu 1400", "address 02:00:00:00:00:07", "name vother"):
        ip(lab, f"link set vnew {change}")
    ip(lab, "link set vother up")
    renamed = eventually(lambda: "vother" in devices_of(lab), within_s=5)
    after = links(lab, "vother")
    ip(lab, "link del vother")

    assert at_first == after  # never attached again
    eventually(lambda: pinned(lab) == before, within_s=WITHIN_S)
    print(f"attached after {took * 1e3:.0f} ms, renamed in status after {renamed * 1e3:.0f} ms")


def test_a_number_that_another_device_gets_is_attached_again(lab: Lab) -> None:
    """F71: keyed by what the kernel says is on the device, not by its number."""
    add_pod_device(lab, "vfirst", index=4242)
    eventually(lambda: is_attached(lab, "vfirst"), within_s=WITHIN_S)
    old = links(lab, "vfirst")

    ip(lab, "link del vfirst")
    add_pod_device(lab, "vsecond", index=4242)

    eventually(lambda: is_attached(lab, "vsecond"), within_s=WITHIN_S)
    assert links(lab, "vsecond") != old
    ip(lab, "link del vsecond")


def test_a_device_that_moves_to_another_namespace_is_let_go(lab: Lab) -> None:
    """D161, F71: also if another one has its number by then."""
    other = "node-2"
    add_pod_device(lab, "vmove", index=4343)
    eventually(lambda: is_attached(lab, "vmove"), within_s=WITHIN_S)
    mine = links(lab, "vmove")

    ip(lab, f"link set vmove netns {lab.blueprint.place(other).namespace}")
    add_pod_device(lab, "vstay", index=4343)

    eventually(lambda: is_attached(lab, "vstay"), within_s=WITHIN_S)
    eventually(
        lambda: not set(mine[0] + mine[1]) & set(sum(links(lab, "vmove", other), ())), within_s=2
    )
    ip(lab, "link del vmove", other)
    ip(lab, "link del vstay")


@pytest.mark.parametrize(
    ("kind", "program"),
    [("tun", "vipbee_uplink_in_l3"), ("vxlan", "vipbee_uplink_in"), ("tap", "vipbee_pod_in")],
)
def test_tunnels_and_taps_get_their_programs(lab: Lab, kind: str, program: str) -> None:
    """D160: a device without Ethernet header runs the programs for it."""
    if kind == "vxlan":
        ip(lab, "link add dnew type vxlan id 77 dstport 4790 dev eth0")
    else:
        ip(lab, f"tuntap add dnew mode {kind}")
    if kind == "tun":
        ip(lab, "addr add 10.99.0.1/24 dev dnew")
    ip(lab, "link set dnew up")

    eventually(lambda: is_attached(lab, "dnew"), within_s=WITHIN_S)
    assert running_on(lab, "dnew", Direction.INGRESS) == program
    ip(lab, "link del dnew")


def running_on(lab: Lab, device: str, direction: Direction) -> str:
    """Name of the pinned program that the link of this device runs."""
    directory = PinDirectory(lab.agent(NODE).bpf_root / LAYOUT_VERSION)
    ifindex = lab.node(NODE).inside(lambda: socket.if_nametoindex(device))
    link = directory.get("links", f"tc-{ifindex}-{direction}")
    assert link is not None
    number = syscall.link_info(link).program_id
    os.close(link)  # it would keep the program attached after the pin is gone
    for name in directory.names("programs"):
        fd = directory.get("programs", name)
        assert fd is not None
        found = syscall.program_info(fd).id
        os.close(fd)
        if found == number:
            return name
    return "?"


def test_a_restart_leaves_every_link_and_program_where_it_is(lab: Lab) -> None:
    """F59: no relinking; the kernel's ids are the same."""
    before = {device: links(lab, device) for device in devices_of(lab)}
    programs = running_on(lab, "eth0", Direction.EGRESS)

    lab.agent(NODE).restart()

    assert {device: links(lab, device) for device in devices_of(lab)} == before
    assert running_on(lab, "eth0", Direction.EGRESS) == programs == "vipbee_uplink_out"


def test_devices_named_by_the_operator_and_no_others(lab: Lab) -> None:
    agent = lab.agent("node-3")
    usual = agent.options
    agent.stop()
    agent.options = (*usual, "--devices=eth+", "--pod-devices=none+")
    agent.start()
    agent.wait_ready()

    found = devices_of(lab, "node-3")

    assert {name: device["role"] for name, device in found.items()} == {"eth0": "uplink"}
    agent.stop()
    agent.options = usual
    agent.start()
    agent.wait_ready()


def test_switched_off_nothing_of_it_stays(lab: Lab) -> None:
    """And the socket layer goes on."""
    agent = lab.agent("node-3")
    config = lab.directory / "off.yaml"
    config.write_text(CONFIG.replace("packet-lb: true", "packet-lb: false"))
    usual = agent.options
    agent.stop()
    agent.options = (f"--config={config}",)
    agent.start()
    agent.wait_ready()

    assert links(lab, "eth0", "node-3") == NONE
    assert pinned(lab, "node-3") == set()
    agent.stop()
    agent.options = usual
    agent.start()
    agent.wait_ready()
    assert links(lab, "eth0", "node-3") != NONE


# ---- last: these stop the agent of node-1 --------------------------------------------------


def test_a_filter_that_somebody_deletes_is_noticed_and_attached_again(lab: Lab) -> None:
    """F52: with its qdisc and all, below 6.6."""
    agent = lab.agent(NODE)
    agent.stop()
    directory = PinDirectory(agent.bpf_root / LAYOUT_VERSION)
    remove_links(directory)
    add_pod_device(lab, "vdeleted")

    async def notices() -> tuple[list[str], list[str]]:
        changes = device_changes()
        await anext(changes)
        hooks = PacketHooks(directory, netns_cookie(), use_tcx=False)
        hooks.bring(decide_roles(read_devices()))
        async with asyncio.timeout(WITHIN_S):
            await anext(changes)  # of what we attached
        unchanged = hooks.bring(decide_roles(read_devices())).changed
        delete = ["tc", "qdisc", "del", "dev", "vdeleted", "clsact"]
        await asyncio.to_thread(lab.node(NODE).run, delete, check=True)
        async with asyncio.timeout(WITHIN_S):
            await anext(changes)
        return unchanged, hooks.bring(decide_roles(read_devices())).changed

    unchanged, again = lab.node(NODE).inside(lambda: asyncio.run(notices()))
    lab.node(NODE).inside(lambda: remove_filters(directory, netns_cookie(), read_devices()))
    ip(lab, "link del vdeleted")
    agent.start()
    agent.wait_ready()

    assert unchanged == []
    assert sorted(again) == ["vdeleted egress", "vdeleted ingress"]


def test_cleanup_and_clsact_below_6_6(lab: Lab) -> None:
    """F47, F52, F53, F58: served by filters alone; filters and qdiscs of others stay."""
    agent = lab.agent(NODE)
    agent.stop()
    directory = PinDirectory(agent.bpf_root / LAYOUT_VERSION)
    add_pod_device(lab, "vforeign")
    # whatever it runs, another priority and handle make it somebody else's
    program = directory.path / "programs" / "vipbee_pod_out"
    add = ["filter", "add", "dev", "vforeign", "ingress", "pref", "7", "handle", "1"]
    foreign = [*add, "bpf", "direct-action", "object-pinned", str(program)]
    for command in (["qdisc", "add", "dev", "vforeign", "clsact"], foreign):
        done = lab.node(NODE).run(["tc", *command])
        assert done.returncode == 0, done.stderr

    def attach() -> tuple[list[str], list[str]]:
        remove_links(directory)
        hooks = PacketHooks(directory, netns_cookie(), use_tcx=False)
        first = hooks.bring(decide_roles(read_devices()))
        second = hooks.bring(decide_roles(read_devices()))
        assert first.failures == {}
        return first.changed, second.changed

    first, second = lab.node(NODE).inside(attach)
    assert "eth0 ingress" in first
    assert "vforeign egress" in first
    assert second == []
    eventually(lambda: links(lab, "eth0") == NONE, what="the kernel frees unpinned links later")
    answers = {ask(lab.client, "TCP", balancer_ip("cluster", 4), 7000).server for _ in range(20)}
    assert answers == {"near-0", "far-0"}
    assert ask(lab.client, "UDP", external_ip("local", 6), 7000).server == "near-0"

    def remove() -> int:
        return remove_filters(directory, netns_cookie(), read_devices())

    assert lab.node(NODE).inside(remove) == len(first)
    assert shown(lab) == ["pref 7"]
    qdiscs = lab.node(NODE).run(["tc", "qdisc"]).stdout
    assert [line.split()[4] for line in qdiscs.splitlines() if "clsact" in line] == ["vforeign"]

    lab.node(NODE).inside(attach)
    done = agent.vipbee(["cleanup"])
    assert done.returncode == 0, done.stderr
    assert not lab.node(NODE).inside(
        lambda: [
            found
            for ifindex in read_devices()
            for found in clsact.read_filters(ifindex, clsact.INGRESS)
            if found.is_ours
        ]
    )
    assert shown(lab) == ["pref 7"]


def shown(lab: Lab) -> list[str]:
    """Priorities of the filters on the device that somebody else uses too."""
    output = lab.node(NODE).run(["tc", "filter", "show", "dev", "vforeign", "ingress"]).stdout
    return [f"pref {line.split()[4]}" for line in output.splitlines() if " handle " in line]
