# SPDX-License-Identifier: Apache-2.0
"""Who owns a frontend when several Services claim it (R88).

Nothing keeps two Services from naming one externalIP and port. One of them gets all
of it, never a mixture: a ClusterIP beats every other kind (the API server allocates
ClusterIPs, anybody can write an externalIP), then the oldest Service, then the first
by namespace and name. The claims of losers are kept, so that the frontend is handed
over when its owner goes. The outcome depends on the claims only, not on their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vipbee.abi import FrontendKind
from vipbee.address import UNSPECIFIED_V4, UNSPECIFIED_V6, format_endpoint
from vipbee.model import (
    Frontend,
    FrontendKey,
    Problem,
    ProblemReason,
    ServiceName,
    ServicePort,
    ServicePortKey,
)

_SPECIFICITY: dict[int, int] = {
    FrontendKind.CLUSTER_IP: 0,
    FrontendKind.LOAD_BALANCER: 1,
    FrontendKind.EXTERNAL_IP: 2,
    FrontendKind.NODE_PORT: 3,
}
_NO_TIMESTAMP = "~"  # sorts after every digit: a Service of unknown age counts as the youngest
_PROTOCOLS = {6: "TCP", 17: "UDP"}


class _Claim(NamedTuple):
    """Sorts by precedence; the best claim on a frontend comes first."""

    is_not_cluster_ip: bool
    created: str
    service: ServiceName
    specificity: int
    port: ServicePortKey
    frontend: Frontend


class Claims:
    """Every Service's claims; `update` one Service at a time, in any order."""

    def __init__(self) -> None:
        self._claims_of: dict[ServiceName, tuple[_Claim, ...]] = {}
        self._owner: dict[FrontendKey, _Claim] = {}
        # Sorted, at least two: only frontends that several claims name.
        self._contested: dict[FrontendKey, list[_Claim]] = {}

    def update(self, name: ServiceName, ports: Sequence[ServicePort]) -> set[ServiceName]:
        """Replace all claims of Service `name`; `()` when it is gone.

        Returns the other Services whose owned frontends changed by that.
        """
        old = self._claims_of.get(name, ())
        new = tuple(_claims(name, ports))
        if old == new:
            return set()
        keys = dict.fromkeys(claim.frontend.key for claim in old + new)
        before = [self._owner.get(key) for key in keys]
        for claim in old:
            self._remove(claim)
        for claim in new:
            self._add(claim)
        if new:
            self._claims_of[name] = new
        else:
            del self._claims_of[name]
        after = [self._owner.get(key) for key in keys]
        moved = (pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
        return {claim.service for pair in moved for claim in pair if claim is not None} - {name}

    def owned(self, port: ServicePort) -> tuple[Frontend, ...]:
        """The frontends of `port` that are its own; it must be one last given to `update`."""
        if not self._contested:
            return port.frontends
        return tuple(
            frontend
            for frontend in port.frontends
            if frontend.key not in self._contested
            or (self._owner[frontend.key].port, self._owner[frontend.key].frontend)
            == (port.key, frontend)
        )

    def conflicts(self) -> list[Problem]:
        """One Problem for each Service and frontend it claims in vain, sorted."""
        problems = set()
        for key, (winner, *losers) in self._contested.items():
            for loser in losers:
                if loser.service == winner.service:
                    continue  # one Service naming its own address twice harms nobody
                kind = FrontendKind(loser.frontend.kind)
                problems.add(
                    Problem(
                        f"Service {loser.service}",
                        f"{kind.label} {_text(key)} belongs to Service {winner.service},"
                        f" {_reason(winner, loser)}; change one of them",
                        is_error=kind is FrontendKind.CLUSTER_IP,
                        reason=ProblemReason.FRONTEND_CONFLICT,
                    )
                )
        return sorted(problems)

    def _add(self, claim: _Claim) -> None:
        key = claim.frontend.key
        owner = self._owner.get(key)
        if owner is None:
            self._owner[key] = claim
            return
        rivals = self._contested.setdefault(key, [owner])
        rivals.append(claim)
        rivals.sort()
        self._owner[key] = rivals[0]

    def _remove(self, claim: _Claim) -> None:
        key = claim.frontend.key
        rivals = self._contested.get(key)
        if rivals is None:
            del self._owner[key]
            return
        rivals.remove(claim)
        self._owner[key] = rivals[0]
        if len(rivals) == 1:
            del self._contested[key]


def _claims(name: ServiceName, ports: Iterable[ServicePort]) -> Iterable[_Claim]:
    for port in ports:
        created = port.created or _NO_TIMESTAMP
        for frontend in port.frontends:
            specificity = _SPECIFICITY[frontend.kind]
            yield _Claim(specificity > 0, created, name, specificity, port.key, frontend)


def _reason(winner: _Claim, loser: _Claim) -> str:
    if winner.is_not_cluster_ip != loser.is_not_cluster_ip:
        return "whose ClusterIP it is"
    if winner.created != loser.created:
        return "which is older"
    return "which comes first by name"


def _text(key: FrontendKey) -> str:
    protocol = _PROTOCOLS[key.protocol]
    if key.address in (UNSPECIFIED_V4, UNSPECIFIED_V6):
        return f"{key.port}/{protocol}"
    return f"{format_endpoint(key.address, key.port)}/{protocol}"
