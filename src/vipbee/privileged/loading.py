# SPDX-License-Identifier: Apache-2.0
"""Loads the datapath as configured. The one part that needs libbpf: so the helper runs it in a
process that ends with it (loader_process.py).

Must not import NumPy: half of what that process has to do would be its import.
"""

from __future__ import annotations

import contextlib
import os
import time

from vipbee.abi import MapName
from vipbee.config import AgentConfig
from vipbee.datapath.attach_tc import remove_filters, remove_links
from vipbee.datapath.devices import read_devices
from vipbee.datapath.features import SIZED_MAPS, probe_features
from vipbee.datapath.loader import LoadRequest, Prepared
from vipbee.datapath.loopback import refuse_own_addresses
from vipbee.datapath.mounts import find_cgroup_root
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.privileged.requests import Started

# Maps that have one entry per id of another one.
_SIZED_LIKE = {
    MapName.SERVICE_COUNTERS: "services",
    MapName.BACKEND_COUNTERS: "backends",
    MapName.CONNTRACK_OUTSIDE: "conntrack",
    MapName.CONNTRACK_POD: "conntrack",
    MapName.NAT_OUTSIDE: "conntrack",
    MapName.NAT_POD: "conntrack",
    MapName.CONNTRACK_NEW_OUTSIDE: "conntrack_new",
    MapName.CONNTRACK_NEW_POD: "conntrack_new",
    MapName.NAT_NEW_OUTSIDE: "conntrack_new",
    MapName.NAT_NEW_POD: "conntrack_new",
}


def load_request(config: AgentConfig) -> LoadRequest:
    """What to load, in the sizes and with the features that this machine has (0.1 s)."""
    return LoadRequest(
        bpf_root=config.bpf_root,
        cgroup_root=config.cgroup_root or find_cgroup_root(),
        sizes=_sizes(config),
        features=probe_features(),
        node_netns_cookie=netns_cookie(),
        bind_protection=config.bind_protection,
        socket_lb=config.socket_lb,
        packet_lb=config.packet_lb,
        packet_constants=config.packet_constants,
    )


def bring_up_datapath(prepared: Prepared) -> Started:
    """Attach, or take over what is there; the caller holds `pins.exclusive`."""
    started = time.perf_counter()
    request, loaded = prepared.request, prepared.bring_up()
    removed = 0
    if not (loaded.packet_lb or loaded.packet_problem):
        removed = remove_links(loaded.directory)
        removed += remove_filters(loaded.directory, request.node_netns_cookie, read_devices())
        with contextlib.suppress(OSError):  # stays as it is, like everything where /proc/sys is
            refuse_own_addresses(loaded.directory)
    # if the kernel refused our packet programs, those of the former version stay where they are
    return Started(
        adopted=loaded.adopted,
        replaced=loaded.replaced,
        kept_sizes=dict(loaded.kept_sizes),
        packet_lb=loaded.packet_lb,
        packet_problem=loaded.packet_problem,
        cgroup=str(request.cgroup_root),
        took_ms=round((time.perf_counter() - started) * 1e3, 1),
        removed_packet_hooks=removed,
    )


def _sizes(config: AgentConfig) -> dict[str, int]:
    sizes = config.map_sizes(memory_bytes(), os.cpu_count() or 1)
    return {name: getattr(sizes, _SIZED_LIKE.get(MapName(name), name)) for name in SIZED_MAPS}


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
