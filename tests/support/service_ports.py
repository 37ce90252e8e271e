# SPDX-License-Identifier: Apache-2.0
"""Desired state in one line, for tests of ids, plans and capacity.

Addresses are short: backend 7 is 10.244.0.7:8080, frontend 3 is 10.96.0.3:80.
"""

from __future__ import annotations

from collections.abc import Iterable

from vipbee.abi import BackendFlag, FrontendKind
from vipbee.address import V4_PREFIX
from vipbee.core.snapshot import Capacity
from vipbee.model import Backend, Frontend, FrontendKey, ServiceName, ServicePort, ServicePortKey

TCP = 6
CLUSTER = int(BackendFlag.SERVING | BackendFlag.READY | BackendFlag.IN_CLUSTER)
BOTH = int(CLUSTER | BackendFlag.IN_LOCAL | BackendFlag.ON_NODE)
LOCAL = int(BOTH & ~BackendFlag.IN_CLUSTER)
DRAINING = int(BackendFlag.SERVING | BackendFlag.TERMINATING)

CAPACITY = Capacity(frontends=16, addresses=16, slots=32, backends=24, services=12)


def backend(number: int, flags: int = CLUSTER) -> Backend:
    return Backend(V4_PREFIX + bytes([10, 244, 0, number]), 8080, flags)


def frontend(number: int, kind: int = FrontendKind.CLUSTER_IP, *, local: bool = False) -> Frontend:
    key = FrontendKey(V4_PREFIX + bytes([10, 96, 0, number]), 80, TCP)
    return Frontend(key, int(kind), local)


def external(number: int) -> Frontend:
    """198.51.100.number:80; several Services may claim it."""
    key = FrontendKey(V4_PREFIX + bytes([198, 51, 100, number]), 80, TCP)
    return Frontend(key, int(FrontendKind.EXTERNAL_IP), False)


def service_port(
    name: str,
    frontends: Iterable[Frontend | int],
    backends: Iterable[Backend | int] = (),
    *,
    port_name: str = "",
    created: str = "",
    affinity_timeout_s: int = 0,
) -> ServicePort:
    """A port of Service default/name; numbers stand for plain frontends and backends."""
    rows = sorted(backend(b) if isinstance(b, int) else b for b in backends)
    return ServicePort(
        key=ServicePortKey("default", name, port_name, TCP, 4),
        service_type="ClusterIP",
        port=80,
        created=created,
        frontends=tuple(frontend(f) if isinstance(f, int) else f for f in frontends),
        backends=tuple(rows),
        affinity_timeout_s=affinity_timeout_s,
        endpoints=len(rows),
    )


def by_service(*ports: ServicePort) -> dict[ServiceName, tuple[ServicePort, ...]]:
    """What Desired.update takes."""
    found: dict[ServiceName, tuple[ServicePort, ...]] = {}
    for port in ports:
        found[port.key.service] = (*found.get(port.key.service, ()), port)
    return found


def gone(*names: str) -> dict[ServiceName, tuple[ServicePort, ...]]:
    return {ServiceName("default", name): () for name in names}
