# SPDX-License-Identifier: Apache-2.0
"""Connections from an outside client, through a NodePort and by plain routing, in turns.

The namespace of a Bench becomes a node between three others, by the other ends of its
devices: the client behind up0, a pod behind pod1, a pod of another node behind up1. Plain
routing is measured twice: with our programs on all devices, and with no program at all.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.packet_bench import Bench
from tests.support.packet_model.lab import HERE, SECOND, V4
from vipbee.datapath import syscall
from vipbee.datapath.syscall import TCX_EGRESS, TCX_INGRESS

PORT = 8080
CLIENT_CPU, SERVER_CPU = 0, 1
_PREFIX = "vipbee-bench-live-"
_NODE_PORTS = {"local": (V4.pods[1], HERE.node_port), "remote": (V4.remotes[1], SECOND.node_port)}
# a backend here would see both kinds of connections as one, had they the same source port
_ROUTED_PORTS, _TRANSLATED_PORTS = "10000 29999", "33000 60999"
_REMOTE_ROUTER = f"{V4.second_node}00"
_HOOKS = {
    "up0": ("vipbee_uplink_in", "vipbee_uplink_out"),
    "up1": ("vipbee_uplink_in", "vipbee_uplink_out"),
    "pod1": ("vipbee_pod_in", "vipbee_pod_out"),
}
# device that goes there: its MAC as the node's neighbour entries have it, addresses, gateway
_ENDS = {
    "up0p": ("02:00:00:00:01:01", (f"{V4.router}/24",), V4.node),
    "pod1p": ("02:00:00:00:01:02", (f"{V4.pods[1]}/32",), V4.node),
    "up1p": ("02:00:00:00:01:01", (f"{_REMOTE_ROUTER}/24", f"{V4.remotes[1]}/32"), V4.second_node),
}


@dataclass(frozen=True, slots=True)
class Ratios:
    """p50 of connect and one byte each way, ÷ the same by plain routing without programs."""

    node_port: float
    beside: float  # plain routing beside our programs
    routed_us: float


def measure_live(bench: Bench, directory: Path, *, rounds: int, count: int) -> dict[str, Ratios]:
    """By place of the backend. `bench` is up, so this thread is in its namespace."""
    client, server = (_compile(directory, name) for name in ("client", "server"))
    _remove_leftovers()
    name = f"{_PREFIX}{os.getpid()}"
    found = {}
    with contextlib.ExitStack() as stack:
        spaces = {end: stack.enter_context(_end(f"{name}-{end}", end)) for end in _ENDS}
        for end in ("pod1p", "up1p"):
            stack.enter_context(_server(spaces[end], server))
        for place, (backend, node_port) in _NODE_PORTS.items():
            command = ["nsenter", f"--net=/run/netns/{spaces['up0p']}", str(client), "tcp"]
            command += [str(CLIENT_CPU), str(count)]
            routed, by_node_port = (backend, PORT), (V4.node, node_port)
            ratios = []
            for _ in range(rounds + 1):
                plain = _dial(command, _ROUTED_PORTS, *routed)
                with _attached(bench):
                    beside = _dial(command, _ROUTED_PORTS, *routed)
                    translated = _dial(command, _TRANSLATED_PORTS, *by_node_port)
                ratios.append((translated / plain, beside / plain, plain / 1000))
            # the first round learns neighbours
            columns = zip(*ratios[1:], strict=True)
            found[place] = Ratios(*(statistics.median(column) for column in columns))
    return found


def _dial(command: list[str], ports: str, address: str, port: int) -> int:
    """p50 in ns."""
    enter, space, *client = command
    # a file of the namespace that opens it
    script = f"echo {ports} > /proc/sys/net/ipv4/ip_local_port_range && exec $0 $@"
    line = [enter, space, "sh", "-c", script, *client, address, str(port)]
    return int(subprocess.check_output(line, text=True, timeout=20).split()[0])


def _remove_leftovers() -> None:
    """Namespaces of runs that were killed."""
    for path in Path("/run/netns").glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", path.name], check=True)


@contextlib.contextmanager
def _attached(bench: Bench) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for device, programs in _HOOKS.items():
            for program, hook in zip(programs, (TCX_INGRESS, TCX_EGRESS), strict=True):
                link = syscall.link_create_tcx(
                    bench.datapath.program_fd(program), bench.ifindexes[device], hook, first=True
                )
                stack.callback(os.close, link)
        yield


@contextlib.contextmanager
def _end(name: str, device: str) -> Iterator[str]:
    """A namespace with the other end of a device in it, and everything routed back."""
    mac, addresses, gateway = _ENDS[device]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "link", "set", device, "netns", name, "address", mac], check=True)
        lines = ["link set lo up", f"link set {device} up"]
        lines += [f"addr add {address} dev {device}" for address in addresses]
        lines += [f"route add default via {gateway} dev {device} onlink"]
        subprocess.run(
            ["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True
        )
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextlib.contextmanager
def _server(space: str, program: Path) -> Iterator[None]:
    command = ["nsenter", f"--net=/run/netns/{space}", str(program)]
    command += [str(SERVER_CPU), str(PORT), "0.0.0.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


def _compile(directory: Path, name: str) -> Path:
    source, program = (
        Path(__file__).resolve().parents[1] / "sockets" / f"{name}.c",
        directory / name,
    )
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    return program
