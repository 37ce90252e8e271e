# SPDX-License-Identifier: Apache-2.0
"""What the agent needs before it can work, found out from its configuration and this machine.

Everything here runs once, at start. Logs what an operator wants to know of it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection
from functools import partial

import structlog

from vipbee.abi import MapName
from vipbee.config import IN_CLUSTER, AgentConfig
from vipbee.datapath import netns
from vipbee.datapath.features import SIZED_MAPS, probe_features
from vipbee.datapath.loader import Loaded, LoadRequest, load
from vipbee.datapath.mounts import find_cgroup_root
from vipbee.errors import SourceError, UsageError
from vipbee.kube_events.notes import FindUid
from vipbee.kube_events.recorder import EventRecorder
from vipbee.model import Problem, ServiceName
from vipbee.sources.kubernetes import (
    Access,
    KubernetesSource,
    MassDeleteGuard,
    in_cluster,
    load_access,
)
from vipbee.sources.statefile import StateFileSource

log = structlog.get_logger()

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


def node_name(config: AgentConfig) -> str:
    """--hostname-override, or the host's name in lower case as kubelet registers it."""
    return config.node_name or socket.gethostname().lower()


def check_source(config: AgentConfig) -> None:
    """Raise UsageError if it can be said now already that there is no way to the API server."""
    if config.state_file is not None:
        return
    try:
        _api_access(config)
    except SourceError as error:
        raise UsageError(str(error)) from None


def make_source(
    config: AgentConfig, programmed: Collection[ServiceName]
) -> StateFileSource | KubernetesSource:
    """Where Services come from; `programmed` are those an earlier process left in the kernel."""
    if config.state_file is not None:
        return StateFileSource(config.state_file)
    return KubernetesSource(
        partial(_api_access, config),
        node_name(config),
        guard=MassDeleteGuard(**config.mass_delete_guard),
        programmed=programmed,
    )


def make_event_recorder(config: AgentConfig, find_uid: FindUid) -> EventRecorder | None:
    """Who writes Kubernetes Events; None if there is no API server, or they are not wanted."""
    if config.state_file is not None or not config.kubernetes_events:
        return None
    return EventRecorder(partial(_api_access, config), node_name(config), find_uid)


def load_request(config: AgentConfig) -> LoadRequest:
    """What to load, in the sizes and with the features that this machine has."""
    return LoadRequest(
        bpf_root=config.bpf_root,
        cgroup_root=config.cgroup_root or find_cgroup_root(),
        sizes=_sizes(config),
        features=probe_features(),
        node_netns_cookie=netns.netns_cookie(),
        bind_protection=config.bind_protection,
        socket_lb=config.socket_lb,
        packet_lb=config.packet_lb,
        packet_constants=config.packet_constants,
    )


def size_problems(config: AgentConfig) -> list[Problem]:
    """What is unwise about the sizes of maps on this machine; UsageError if it cannot be."""
    memory, cpus = _memory_bytes(), os.cpu_count() or 1
    messages = config.map_sizes(memory, cpus).problems(memory, cpus)
    return [Problem("map-sizes", message, is_error=False) for message in messages]


def load_datapath(request: LoadRequest) -> Loaded:
    """Load and attach, or take over what is there."""
    started = time.perf_counter()
    loaded = load(request)
    log.info(
        "datapath loaded",
        adopted=loaded.adopted,
        replaced=len(loaded.replaced),
        cgroup=str(request.cgroup_root),
        took_ms=round((time.perf_counter() - started) * 1e3, 1),
    )
    for name, (pinned, configured) in loaded.kept_sizes.items():
        log.warning(
            "map keeps its size until `vipbee cleanup`",
            map=name,
            size=pinned,
            configured=configured,
        )
    return loaded


def _api_access(config: AgentConfig) -> Access:
    if config.kubeconfig is None or config.kubeconfig == IN_CLUSTER:
        return in_cluster(servers=config.api_servers)
    return load_access(config.kubeconfig, config.api_servers)


def _sizes(config: AgentConfig) -> dict[str, int]:
    sizes = config.map_sizes(_memory_bytes(), os.cpu_count() or 1)
    return {name: getattr(sizes, _SIZED_LIKE.get(MapName(name), name)) for name in SIZED_MAPS}


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
