# SPDX-License-Identifier: Apache-2.0
"""What an earlier process left in the kernel, as far as a source of objects may doubt or use it.

Nothing else survives a restart: there is no state file of the agent's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vipbee.abi import BackendFlag
from vipbee.address import format_endpoint
from vipbee.core.snapshot import Snapshot
from vipbee.model import ServiceName

_API_SERVER = ServiceName("default", "kubernetes")
_TCP = 6


@dataclass(frozen=True, slots=True)
class Inherited:
    """Names only: the objects themselves are not known."""

    served: frozenset[ServiceName] = frozenset()
    """Services that had an endpoint that serves."""
    api_servers: tuple[str, ...] = ()
    """URLs behind default/kubernetes (F3)."""


def inherited(snapshot: Snapshot) -> Inherited:
    """Read it from the tables, whatever nonsense they hold."""
    backends = snapshot.backends[snapshot.backends["flags"] & BackendFlag.SERVING != 0]
    with_backends = np.isin(snapshot.service_ids, backends["service_id"])
    infos, ids = snapshot.services[with_backends], snapshot.service_ids[with_backends]
    names = [
        ServiceName(namespace.decode(errors="replace"), name.decode(errors="replace"))
        for namespace, name in zip(
            infos["namespace_"].tolist(), infos["name"].tolist(), strict=True
        )
    ]
    theirs = [
        service_id
        for name, service_id, protocol in zip(
            names, ids.tolist(), infos["protocol"].tolist(), strict=True
        )
        if name == _API_SERVER and protocol == _TCP
    ]
    rows = backends[np.isin(backends["service_id"], theirs)]
    places = sorted(
        (row["address"].tobytes(), port)
        for row, port in zip(rows, rows["port"].tolist(), strict=True)
    )
    urls = tuple(f"https://{format_endpoint(address, port)}" for address, port in places)
    return Inherited(frozenset(names), urls)
