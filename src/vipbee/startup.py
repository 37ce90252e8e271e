# SPDX-License-Identifier: Apache-2.0
"""What the agent needs before it can work, found out from its configuration and this machine.

Everything here runs once, at start. Logs what an operator wants to know of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from functools import partial

from vipbee.config import AgentConfig
from vipbee.core.inherited import Inherited
from vipbee.core.request_counts import RequestCounts
from vipbee.errors import SourceError, UsageError
from vipbee.kube_events.notes import FindUid
from vipbee.kube_events.recorder import EventRecorder
from vipbee.logs import get_log
from vipbee.model import Problem, ServiceName
from vipbee.privileged.credentials import read_access
from vipbee.privileged.loading import memory_bytes
from vipbee.privileged.operations import Privileges
from vipbee.privileged.requests import Started
from vipbee.sources.files import Files
from vipbee.sources.kubernetes import KubernetesSource, MassDeleteGuard
from vipbee.sources.statefile import StateFileSource

log = get_log()


def node_name(config: AgentConfig) -> str:
    """--hostname-override, or the host's name in lower case as kubelet registers it."""
    return config.node_name or socket.gethostname().lower()


def check_source(config: AgentConfig, files: Files) -> None:
    """Raise UsageError if it can be said now already that there is no way to the API server."""
    if config.state_file is not None:
        return
    try:
        read_access(config, files)
    except SourceError as error:
        raise UsageError(str(error)) from None


def make_source(
    config: AgentConfig,
    programmed: Collection[ServiceName],
    left: Inherited,
    files: Files,
    counts: RequestCounts,
) -> StateFileSource | KubernetesSource:
    """Where Services come from; an earlier process `programmed` some and `left` some in force."""
    if config.state_file is not None:
        return StateFileSource(config.state_file, files=files)
    return KubernetesSource(
        partial(read_access, config, files),
        node_name(config),
        guard=MassDeleteGuard(**config.mass_delete_guard),
        programmed=programmed,
        served=left.served,
        replicas=left.api_servers,
        counts=counts,
    )


def make_event_recorder(
    config: AgentConfig, find_uid: FindUid, files: Files, counts: RequestCounts
) -> EventRecorder | None:
    """Who writes Kubernetes Events; None if there is no API server, or they are not wanted."""
    if config.state_file is not None or not config.kubernetes_events:
        return None
    access = partial(read_access, config, files)
    return EventRecorder(access, node_name(config), find_uid, counts=counts)


def size_problems(config: AgentConfig) -> list[Problem]:
    """What is unwise about the sizes of maps on this machine; UsageError if it cannot be."""
    memory, cpus = memory_bytes(), os.cpu_count() or 1
    messages = config.map_sizes(memory, cpus).problems(memory, cpus)
    return [Problem("map-sizes", message, is_error=False) for message in messages]


def load_datapath(privileges: Privileges) -> Started:
    """Load and attach, or take over what is there."""
    loaded = privileges.load()
    log.info(
        "datapath loaded",
        adopted=loaded.adopted,
        replaced=len(loaded.replaced),
        cgroup=loaded.cgroup,
        took_ms=loaded.took_ms,
    )
    for name, (pinned, configured) in loaded.kept_sizes.items():
        log.warning(
            "map keeps its size until `vipbee cleanup`",
            map=name,
            size=pinned,
            configured=configured,
        )
    if loaded.removed_packet_hooks:
        log.info(
            "packet programs removed: the packet layer is off", hooks=loaded.removed_packet_hooks
        )
    return loaded
