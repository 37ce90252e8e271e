# SPDX-License-Identifier: Apache-2.0
"""Stands in for cilium-agent where there is none: the options of it that we use, and no others.

Like it, it reads Services and EndpointSlices from a file and follows it, pins maps and a link in
its bpffs, attaches to the cgroup it was given, makes a device and leaves iptables rules behind.
It serves by such rules. Unlike it, it refuses to run where it could reach anything of the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.foreign_program import OBJ_PIN, ForeignProgram, bpf
from vipbee.datapath import syscall

VERSION = "0.0.0-stand-in"
FLAGS = (
    *("enable-k8s", "agent-health-require-k8s-connectivity", "identity-allocation-mode", "ipam"),
    *("ipv4-range", "ipv6-range", "routing-mode", "enable-ipv4", "enable-ipv6"),
    *("enable-ipv4-masquerade", "enable-ipv6-masquerade", "kube-proxy-replacement", "devices"),
    *("direct-routing-device", "bpf-lb-map-max", "lb-state-file", "lb-state-file-interval"),
    *("enable-policy", "enable-l7-proxy", "enable-hubble", "enable-health-checking"),
    *("enable-endpoint-health-checking", "bpf-root", "cgroup-root", "state-dir", "socket-path"),
)
_MAP_CREATE, _HASH = 0, 1
_CGROUP2, _BPFFS = 0x63677270, 0xCAFE4A11


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(f"Error: {message}", file=sys.stderr)
        raise SystemExit(1)


def main() -> None:
    parser = _Parser(prog="cilium-agent", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"cilium-agent {VERSION} go1")
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", required=True)
    options = parser.parse_args()
    _refuse_to_reach_the_machine(Path(options.cgroup_root), Path(options.bpf_root))
    link = ["link", "add", "cilium_host", "type", "veth", "peer", "name", "cilium_net"]
    subprocess.run(["ip", *link], check=True)
    pins = Path(options.bpf_root) / "tc" / "globals"
    pins.mkdir(parents=True)
    with ForeignProgram(Path(options.cgroup_root), allows=True) as program:
        program.pin(Path(options.bpf_root) / "link")
        _follow(Path(options.lb_state_file), pins)


def _refuse_to_reach_the_machine(cgroup: Path, bpffs: Path) -> None:
    reasons = {
        "the cgroup is that of the machine": not (cgroup / "cgroup.events").exists(),
        "that is no cgroup2": _filesystem(cgroup) != _CGROUP2,
        "that is no bpffs": _filesystem(bpffs) != _BPFFS,
        "the bpffs is not new": any(bpffs.glob("[!.]*/*")),
        "the machine's pins are in reach": _filesystem(Path("/sys/fs/bpf")) == _BPFFS,
        "the machine's cgroups are in reach": _filesystem(Path("/sys/fs/cgroup")) == _CGROUP2,
        "the kernel's settings are in reach": os.access(
            "/proc/sys/kernel/unprivileged_bpf_disabled", os.W_OK
        ),
        # a setting that only the machine's own network namespace has
        "the machine's network is in reach": Path("/proc/sys/net/core/bpf_jit_enable").exists(),
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise SystemExit(f"level=fatal msg={reason!r}")


def _filesystem(path: Path) -> int:
    """The magic number of what is mounted there."""
    buffer = (ctypes.c_long * 32)()
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), buffer):
        return 0
    return buffer[0] & 0xFFFFFFFF


def _follow(file: Path, pins: Path) -> None:
    seen = None
    while True:
        identity = file.stat().st_ino
        if identity != seen:
            seen = identity
            _serve(json.loads(file.read_bytes()), pins)
        time.sleep(0.005)


def _serve(state: dict[str, Any], pins: Path) -> None:
    """By rules; and an entry for each frontend, in a map where Cilium's would be."""
    slices = {found["metadata"]["labels"]["kubernetes.io/service-name"]: found
              for found in state["endpoints"]}  # fmt: skip
    for family, program in ((4, "iptables-nft-restore"), (6, "ip6tables-nft-restore")):
        rules = [
            rule
            for service in state["services"]
            for rule in _rules(service, slices[service["metadata"]["name"]], family)
        ]
        lines = ["*nat", ":CILIUM_PRE_nat - [0:0]", "-F PREROUTING", "-F OUTPUT", "-F POSTROUTING"]
        lines += [f"-A {hook} -j CILIUM_PRE_nat" for hook in ("PREROUTING", "OUTPUT")]
        lines += ["-A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE", *rules, "COMMIT", ""]
        subprocess.run([program, "--noflush"], input="\n".join(lines), text=True, check=True)
        _pin(pins / f"cilium_lb{family}_services_v2", len(rules))


def _rules(service: dict[str, Any], found: dict[str, Any], family: int) -> Iterator[str]:
    if found["addressType"] != f"IPv{family}":
        return
    endpoint = found["endpoints"][0]["addresses"][0]
    for port in service["spec"]["ports"]:
        protocol = port["protocol"].lower()
        to = f"[{endpoint}]" if family == 6 else endpoint
        target = f"-j DNAT --to-destination {to}:{port['targetPort']}"
        where = f"-d {service['spec']['clusterIP']} -p {protocol} --dport {port['port']}"
        yield f"-A CILIUM_PRE_nat {where} {target}"
        if "nodePort" in port:
            where = f"-p {protocol} --dport {port['nodePort']}"
            yield f"-A CILIUM_PRE_nat -m addrtype --dst-type LOCAL {where} {target}"


def _pin(path: Path, entries: int) -> None:
    fd = bpf(_MAP_CREATE, struct.pack("=IIIII", _HASH, 4, 4, entries + 1, 0))
    for number in range(entries):
        syscall.map_update(fd, bytearray(struct.pack("=I", number)), bytearray(4))
    path.unlink(missing_ok=True)
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(OBJ_PIN, struct.pack("=QI", ctypes.addressof(name), fd))
    os.close(fd)


if __name__ == "__main__":
    main()
