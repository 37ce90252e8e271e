# SPDX-License-Identifier: Apache-2.0
"""What load balancers are told about Services with externalTrafficPolicy Local (R96–R101).

Counted from what is *programmed*, not from what came in: a load balancer that learns of
a node has a node that serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vipbee.abi import BackendFlag
from vipbee.model import Service, ServiceName, ServicePort

_LOCAL_READY = int(BackendFlag.READY | BackendFlag.ON_NODE)


class HealthCheck(NamedTuple):
    """One Service's `spec.healthCheckNodePort`; `endpoints` by family, of those it has."""

    port: int
    endpoints: Mapping[int, int]


class HealthChecks:
    """Follows which Services want one and what it says. Pure."""

    def __init__(self) -> None:
        self._ports: dict[ServiceName, int] = {}
        self._counted: dict[ServiceName, tuple[ServicePort, ...]] = {}
        self._checks: dict[ServiceName, HealthCheck] = {}

    def note(self, name: ServiceName, service: Service | None) -> None:
        """`service` is what `name` is now; None: gone. Counts at the next `refresh`."""
        port = _port(service)
        if port != self._ports.get(name, 0):
            self._counted.pop(name, None)
            if port:
                self._ports[name] = port
            else:
                del self._ports[name]

    def retain(self, names: Iterable[ServiceName]) -> None:
        """There are no Services but these."""
        for name in self._ports.keys() - set(names):
            self.note(name, None)

    def refresh(
        self, programmed: Mapping[ServiceName, tuple[ServicePort, ...]]
    ) -> Mapping[ServiceName, HealthCheck]:
        """The checks after a step; the very same object as before if nothing changed.

        A Service that is not programmed has none: nobody answers, so nobody sends.
        """
        changed = {name: self._check(name, ports) for name, ports in self._due(programmed)}
        gone = [name for name in self._checks if name not in self._ports]
        if any(self._checks.get(name) != check for name, check in changed.items()) or gone:
            kept = {name: check for name, check in self._checks.items() if name in self._ports}
            new = {**kept, **changed}
            self._checks = {name: check for name, check in new.items() if check is not None}
        return self._checks

    def _due(
        self, programmed: Mapping[ServiceName, tuple[ServicePort, ...]]
    ) -> list[tuple[ServiceName, tuple[ServicePort, ...]]]:
        """Those whose Service ports are another value than at the last look."""
        return [
            (name, ports)
            for name in self._ports
            if (ports := programmed.get(name, ())) is not self._counted.get(name)
        ]

    def _check(self, name: ServiceName, ports: tuple[ServicePort, ...]) -> HealthCheck | None:
        self._counted[name] = ports
        return HealthCheck(self._ports[name], local_endpoints(ports)) if ports else None


def local_endpoints(ports: Iterable[ServicePort]) -> dict[int, int]:
    """Distinct addresses of local Ready endpoints over all ports, by family (R99).

    Terminating ones that are used for want of better do not count (KEP-1669).
    """
    found: dict[int, set[bytes]] = {}
    for port in ports:
        addresses = found.setdefault(port.key.family, set())
        for backend in port.backends:
            if backend.flags & _LOCAL_READY == _LOCAL_READY:
                addresses.add(backend.address)
    return {family: len(addresses) for family, addresses in found.items()}


def _port(service: Service | None) -> int:
    """The port of a Service that has health checks, else 0 (R96)."""
    if service is None:
        return 0
    spec = service.spec
    wanted = spec.type == "LoadBalancer" and spec.externalTrafficPolicy == "Local"
    return spec.healthCheckNodePort if wanted else 0
