# SPDX-License-Identifier: Apache-2.0
"""What `vipbee status` shows: the stable schema of its JSON and YAML, and its composition.

running        an agent is alive and holds the lock
programmed     the pins are there: Services are forwarded, agent or not
layout, bpfRoot
agent          pid, version, node, source, started, lastSync (RFC 3339 or null), audits,
               repairs; of the last agent if none runs; null if there never was one;
               rights: a sentence, null if none runs
hooks          list of: name, programId, tag, cgroup (path or null), attached,
               current (null: not known; false: another version's program)
packetLb       the packet layer is on
devices        of the packet layer, list of: name, ifindex, role ("uplink" | "pod"), by ("tcx" |
               "clsact" | null), attached (of "egress", "ingress")
services, servicePorts, frontends, backends     how many are programmed
maps           list of: name, entries, capacity, pressure (0.0 to 1.0)
reasons        name: how often, since the maps were made
problems       list of: severity ("error": not served | "warning": not entirely as
               written), object, message
degraded       sentences: what works less well than it could, and why
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from msgspec import Struct

from vipbee.abi import MapName, ReportSeverity
from vipbee.core.snapshot import Records
from vipbee.observe.readings import HashReader, Reader, map_usage, reasons, text

_ALMOST_FULL = 0.9


class AgentView(Struct, rename="camel", kw_only=True):
    pid: int
    version: str
    node: str
    source: str
    started: str | None
    last_sync: str | None
    audits: int
    repairs: int
    rights: str | None = None


class HookView(Struct, rename="camel", kw_only=True):
    name: str
    program_id: int
    tag: str
    cgroup: str | None
    attached: bool
    current: bool | None


class DeviceView(Struct, rename="camel", kw_only=True):
    name: str
    ifindex: int
    role: str
    by: str | None
    attached: list[str]


class MapView(Struct, rename="camel", kw_only=True):
    name: str
    entries: int
    capacity: int
    pressure: float


class ProblemView(Struct, rename="camel", kw_only=True):
    severity: str
    object: str
    message: str


class StatusView(Struct, rename="camel", kw_only=True):
    running: bool
    programmed: bool
    layout: str
    bpf_root: str
    agent: AgentView | None = None
    hooks: list[HookView] = []
    packet_lb: bool = False
    devices: list[DeviceView] = []
    services: int = 0
    service_ports: int = 0
    frontends: int = 0
    backends: int = 0
    maps: list[MapView] = []
    reasons: Mapping[str, int] = {}
    problems: list[ProblemView] = []
    degraded: list[str] = []


def read_agent(reader: Reader) -> AgentView | None:
    """The card of the agent that runs, or ran last; None if none ever started."""
    card = reader.read_array(MapName.AGENT)[0]
    if not card["pid"]:
        return None
    return AgentView(
        pid=int(card["pid"]),
        version=text(card["version"]),
        node=text(card["node_name"]),
        source=text(card["source"]),
        started=_rfc3339(int(card["started_unix_ns"])),
        last_sync=_rfc3339(int(card["synced_unix_ns"])),
        audits=int(card["audits"]),
        repairs=int(card["repairs"]),
    )


def fill(
    status: StatusView, reader: Reader, *, hooks: Sequence[HookView], degraded: Sequence[str]
) -> None:
    """Add everything the tables say to a status that says who and where."""
    snapshot = reader.snapshot()
    names = snapshot.services[["namespace_", "name"]]
    status.hooks = list(hooks)
    status.services = len(np.unique(_rows(names)))
    status.service_ports = len(snapshot.service_ids)
    status.frontends = len(snapshot.frontend_keys)
    status.backends = int(np.count_nonzero(snapshot.backends["flags"]))
    status.maps = [
        MapView(
            name=usage.name,
            entries=usage.entries,
            capacity=usage.capacity,
            pressure=usage.pressure,
        )
        for usage in map_usage(reader, snapshot)
    ]
    status.reasons = reasons(reader)
    status.problems = read_problems(reader)
    full = [
        f"map {entry.name} is {entry.pressure:.0%} full"
        for entry in status.maps
        if entry.pressure >= _ALMOST_FULL and "_new_" not in entry.name  # those are made to fill
    ]
    status.degraded = [*degraded, *full]


def read_problems(reader: HashReader) -> list[ProblemView]:
    """What the agent reported, errors first, as it sorted them."""
    keys, values = reader.read_hash(MapName.REPORTS)
    order = np.lexsort((keys, values["severity"] != ReportSeverity.ERROR))
    return [
        ProblemView(
            severity="error" if row["severity"] == ReportSeverity.ERROR else "warning",
            object=text(row["object"]),
            message=text(row["message"]),
        )
        for row in values[order]
    ]


def _rows(records: Records) -> Records:
    """Each record as opaque bytes, so that np.unique compares whole rows."""
    packed = np.char.add(np.char.add(records["namespace_"], b"/"), records["name"])
    return np.asarray(packed)


def _rfc3339(unix_ns: int) -> str | None:
    if not unix_ns:
        return None
    moment = datetime.fromtimestamp(unix_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
