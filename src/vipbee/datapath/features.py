# SPDX-License-Identifier: Apache-2.0
"""What this kernel can do, found by loading the shipped programs, not by version.

Each optional feature is a constant in `struct config` or a program of its own, so
trying it means: load exactly that, with tiny maps, and throw it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vipbee.abi import MapName
from vipbee.datapath.objectfile import ObjectFile
from vipbee.datapath.programs import (
    RELEASE_ITERATOR,
    SOCKET_PROGRAMS,
    STALE_ITERATOR,
    SWEEP_ITERATOR,
)
from vipbee.errors import KernelError

PACKET_MAPS = tuple(
    str(name)
    for name in (
        MapName.DEVICES,
        MapName.SERVICE_CIDRS,
        MapName.SOURCE_RANGES,
        MapName.CONNTRACK_NEW_OUTSIDE,
        MapName.CONNTRACK_OUTSIDE,
        MapName.NAT_NEW_OUTSIDE,
        MapName.NAT_OUTSIDE,
        MapName.CONNTRACK_NEW_POD,
        MapName.CONNTRACK_POD,
        MapName.NAT_NEW_POD,
        MapName.NAT_POD,
        MapName.PORT_MARKS,
        MapName.FRAGMENTS,
        MapName.EARLY_FRAGMENTS,
        MapName.FRAGMENT_DRAFTS,
        MapName.REFUSAL_BUDGETS,
        MapName.DRAFTS,
    )
)
"""Maps only the packet programs use."""

_UNSIZED_PACKET_MAPS = {
    MapName.DEVICES,
    MapName.SERVICE_CIDRS,
    MapName.EARLY_FRAGMENTS,
    MapName.FRAGMENT_DRAFTS,
    MapName.PORT_MARKS,
    MapName.REFUSAL_BUDGETS,
    MapName.DRAFTS,
}
_UNSIZED = {
    MapName.ADDRESS_FILTER,
    MapName.TABLES_EPOCH,
    MapName.TCP_FLOWS,
    MapName.TCP_CLAIMS,
    MapName.SOCKET_FLOWS,
    MapName.REASONS,
    MapName.AGENT,
    MapName.RESERVED_PORTS,
    *_UNSIZED_PACKET_MAPS,
}
SIZED_MAPS = tuple(str(name) for name in MapName if name not in _UNSIZED)
"""Maps whose max_entries the configuration decides."""

_VMLINUX_BTF = Path("/sys/kernel/btf/vmlinux")


@dataclass(frozen=True, slots=True)
class Features:
    set_retval: bool  # ECONNREFUSED from a hook (5.18); else EPERM, and a RST for TCP
    socket_storage: bool  # reverse state in the socket; else an LRU map by cookie
    stale_iterator: bool  # find stale UDP sockets in all namespaces at once; else in each
    release_iterator: bool  # release them in the kernel (6.5); else through sock_diag
    coarse_clock: bool = False  # bpf_ktime_get_coarse_ns() (5.11), cheaper per packet
    fib_skip_neighbour: bool = False  # BPF_FIB_LOOKUP_SKIP_NEIGH (6.3)
    fib_mtu: bool = False  # bpf_fib_lookup() knows the MTU (5.12); else the map `devices`
    sweep_iterators: bool = False  # else user space walks the tables of connections

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs to load on this kernel."""
        chosen = list(SOCKET_PROGRAMS)
        if self.stale_iterator:
            chosen.append(STALE_ITERATOR)
        if self.release_iterator:
            chosen.append(RELEASE_ITERATOR)
        return tuple(chosen)


def try_load(*programs: str, skip_maps: tuple[str, ...] = (), **config: int) -> KernelError | None:
    """Load these programs alone with tiny maps; return why the kernel refused, if it did."""
    with ObjectFile.open() as trial:
        trial.set_max_entries(dict.fromkeys(SIZED_MAPS, 1))
        trial.configure(**config)
        trial.keep_programs(programs)
        for name in skip_maps:
            trial.skip_map(name)
        try:
            trial.load()
        except KernelError as error:
            return error
    return None


def probe_features() -> Features:
    """Try each optional feature once (about 0.1 s in all)."""
    storage = try_load("vipbee_connect4", "vipbee_sock_release", has_socket_storage=1) is None
    return Features(
        set_retval=try_load("vipbee_connect4", has_set_retval=1) is None,
        socket_storage=storage,
        stale_iterator=storage and try_load(STALE_ITERATOR) is None,
        release_iterator=storage
        and _kernel_has_symbol("bpf_sock_destroy")
        and try_load(RELEASE_ITERATOR) is None,
        # a flag that the kernel does not know fails at run time only
        coarse_clock=_kernel_has_symbol("BPF_FUNC_ktime_get_coarse_ns"),
        fib_skip_neighbour=_kernel_has_symbol("BPF_FIB_LOOKUP_SKIP_NEIGH"),
        fib_mtu=_kernel_has_symbol("mtu_result"),  # a member of its parameters
        sweep_iterators=try_load(SWEEP_ITERATOR) is None,
    )


def _kernel_has_symbol(name: str) -> bool:
    # The kfunc is a weak symbol: without it the program loads all the same and does nothing.
    try:
        return b"\0" + name.encode() + b"\0" in _VMLINUX_BTF.read_bytes()
    except OSError:
        return False
