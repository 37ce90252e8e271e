# SPDX-License-Identifier: Apache-2.0
"""Can this machine run vipbee? Found by trying, not by version numbers.

Every probe does what the agent would do, small and for a moment; nothing is pinned and
nothing stays. Hooks are tried in probe_hooks.py; who else handles Services here is
found in other_agent.py and by `takeover`.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vipbee.abi import LAYOUT_VERSION, MapName
from vipbee.core.port_ranges import NODE_PORTS
from vipbee.datapath import capabilities, reserved_ports, syscall
from vipbee.datapath.features import SIZED_MAPS, probe_features, try_load
from vipbee.datapath.finding import Finding, Result, missing, reason_of, remedy_of
from vipbee.datapath.libbpf import libbpf
from vipbee.datapath.mounts import mount_of, mounts
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.pins import other_layouts
from vipbee.datapath.probe_hooks import probe_cgroup, probe_helpers, probe_hooks
from vipbee.datapath.probe_packets import probe_packets
from vipbee.errors import VipbeeError

_MAP_TYPES = (
    ("map: hash", MapName.FRONTENDS, "frontends, addresses, names"),
    ("map: array, mmap-able", MapName.SLOTS, "slots, backends, counters"),
    ("map: per-CPU array", MapName.REASONS, "counters of drop reasons"),
    ("map: LRU hash", MapName.AFFINITY, "session affinity, UDP flows"),
    ("map: socket storage", MapName.SOCKET_FLOWS, "the Service a socket dialled"),
)


def probe(*, cgroup_root: Path | None, bpf_root: Path, map_bytes: int) -> list[Finding]:
    """Every finding, in the order in which problems should be solved.

    `map_bytes` is the memory the configured maps take. A machine without libbpf, or
    without the right to use BPF, is not asked further.
    """
    findings = [probe_libbpf(), *probe_capabilities()]
    if any(finding.is_blocking for finding in findings):
        return findings
    findings += [probe_btf(), *probe_map_types(), probe_batches()]
    findings += [probe_bpffs(bpf_root), probe_layout(bpf_root)]
    cgroup, place = probe_cgroup(cgroup_root)
    findings.append(cgroup)
    features = probe_features()
    findings += probe_hooks(place, features)
    findings += [*probe_helpers(features), *probe_packets(features), probe_node_ports()]
    findings.append(probe_memory(map_bytes))
    return findings


def probe_libbpf() -> Finding:
    what = "libbpf"
    try:
        libbpf()
        library = c.CDLL("libbpf.so.1")
        library.libbpf_version_string.restype = c.c_char_p
        return Finding(what, Result.OK, f"the system's, {library.libbpf_version_string().decode()}")
    except VipbeeError as error:
        return missing(what, "libbpf.so.1 is missing or too old", remedy_of(error))


def probe_capabilities() -> list[Finding]:
    """Those that are needed, and the one that some features want."""
    if names := capabilities.lacking():
        problem = f"{', '.join(names)} not effective"
        return [missing("capabilities", problem, capabilities.REMEDY)]
    found = [Finding("capabilities", Result.OK, "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN")]
    if not capabilities.may_administer():
        without = "no CAP_SYS_ADMIN: UDP sockets of pods are not released, bpffs not mounted"
        found.append(Finding("entering pods' namespaces", Result.FALLS_BACK, without))
    return found


def probe_btf() -> Finding:
    path = Path("/sys/kernel/btf/vmlinux")
    if path.is_file() and os.access(path, os.R_OK):
        return Finding("kernel BTF", Result.OK, str(path))
    return Finding("kernel BTF", Result.FALLS_BACK, "no iterators over sockets")


def probe_map_types() -> list[Finding]:
    return [_probe_map(what, name, use) for what, name, use in _MAP_TYPES]


def _probe_map(what: str, name: MapName, use: str) -> Finding:
    others = tuple(other for other in MapName if other != name)
    if (error := try_load(skip_maps=others)) is None:
        return Finding(what, Result.OK, use)
    return missing(
        what, reason_of(error), "use a kernel of 5.10 or newer with CONFIG_BPF_SYSCALL=y"
    )


def probe_batches() -> Finding:
    """Many entries in one call, both ways, on a hash that is thrown away."""
    what = "batch operations"
    keys = np.arange(4, dtype=np.uint32)
    try:
        with _tiny_maps(MapName.REPORTS) as trial:
            fd = trial.map_fd(MapName.REPORTS)
            values = np.zeros((4, syscall.map_info(fd).value_size), dtype=np.uint8)
            syscall.map_update_batch(fd, keys, values)
            try:
                syscall.map_lookup_batch(fd, keys, values, bytearray(16), first=True)
            except syscall.BatchError as error:
                if error.errno != errno.ENOENT:  # that is: the walk is complete
                    raise
            syscall.map_delete_batch(fd, np.arange(4, dtype=np.uint32))
    except (OSError, VipbeeError):
        return Finding(what, Result.FALLS_BACK, "one entry a call: slower programming")
    return Finding(what, Result.OK, "tables are read and written in bulk")


def probe_bpffs(bpf_root: Path) -> Finding:
    what = "bpffs"
    mount = mount_of(bpf_root.absolute(), mounts())
    if mount.fstype == "bpf":
        return Finding(what, Result.OK, f"{mount.point} for {bpf_root}")
    # fsopen(2) makes a superblock context without mounting it anywhere; the same number everywhere
    fd = c.CDLL(None, use_errno=True).syscall(c.c_long(430), b"bpf", c.c_uint(1))
    if fd < 0:
        problem = f"not mounted, and cannot be ({os.strerror(c.get_errno())})"
        return missing(what, problem, "mount it: mount -t bpf bpf /sys/fs/bpf")
    os.close(fd)
    return Finding(what, Result.OK, "not mounted; the agent mounts it")


def probe_layout(bpf_root: Path) -> Finding:
    what = "pinned layout"
    if others := other_layouts(bpf_root):
        return missing(
            what,
            f"{bpf_root} holds {', '.join(others)}, this version needs {LAYOUT_VERSION}",
            "run the vipbee version that made it, or `vipbee cleanup`",
        )
    adopted = (bpf_root / LAYOUT_VERSION).is_dir()
    return Finding(what, Result.OK, f"{LAYOUT_VERSION}, {'adopted' if adopted else 'new'}")


def probe_node_ports() -> Finding:
    """Whether the node's own connections can be kept from starting at a NodePort number."""
    what = "NodePorts reserved"
    try:
        unreserved = reserved_ports.missing_ports(NODE_PORTS)
    except (OSError, ValueError) as error:
        return Finding(what, Result.WARNING, f"{reserved_ports.SYSCTL} is unreadable: {error}")
    if not unreserved:
        return Finding(what, Result.OK, f"{NODE_PORTS}, in {reserved_ports.SYSCTL}")
    if reserved_ports.is_writable():
        return Finding(what, Result.OK, f"by the agent, in {reserved_ports.SYSCTL}")
    return Finding(
        what,
        Result.WARNING,
        f"{reserved_ports.SYSCTL} cannot be written from here",
        f"set it to {NODE_PORTS} on the host",
    )


def probe_memory(map_bytes: int) -> Finding:
    what = "memory"
    available = _available_bytes()
    used = f"{_mib(map_bytes)} MiB for maps of {_mib(available)} MiB available"
    if map_bytes > available:
        return missing(what, used, "set smaller `map-sizes` in the --config file")
    # the tables are shadowed in the agent, and other programs want some as well
    return Finding(what, Result.WARNING if map_bytes > available / 2 else Result.OK, used)


# ---- parts -----------------------------------------------------------------------------


@contextlib.contextmanager
def _tiny_maps(*names: MapName) -> Iterator[ObjectFile]:
    """Only these maps, with room for four entries, and no program."""
    with ObjectFile.open() as trial:
        for other in set(MapName) - set(names):
            trial.skip_map(other)
        trial.set_max_entries({name: 4 for name in names if name in SIZED_MAPS})
        trial.keep_programs(())
        trial.load()
        yield trial


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _mib(size: int) -> int:
    return -(-size // (1 << 20))
