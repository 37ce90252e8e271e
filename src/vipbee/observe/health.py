# SPDX-License-Identifier: Apache-2.0
"""Is this node's proxy alive, programmed and wanted by load balancers (R102-R105).

    not synced yet ──► /healthz 503   /livez 200 (a starting proxy is alive, R103)
    synced, idle   ──► 200 / 200
    an update pending for 60 s without success ──► 503 / 503
    node about to go (R104) ──► 503 / 200

kube-proxy's bodies and meaning, except that `/healthz` waits for the first complete
programming. No clock in here: every method takes `now`, Unix seconds.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from vipbee.model import Node

PENDING_LIMIT_S = 60.0
"""2 × kube-proxy's default syncPeriod (R103)."""

_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, as kube-proxy shows it


class Answer(NamedTuple):
    status: int  # 200 or 503
    body: bytes  # JSON


class Health:
    """What the agent tells as it works, and what the probes are answered.

    `needs_node`: without its Node object the node is not eligible (R104, as kube-proxy 1.36).
    """

    def __init__(self, *, needs_node: bool = False) -> None:
        self.needs_node = needs_node
        self._pending_since: float | None = None
        self._synced_at: float | None = None
        self._node_seen = False
        self._is_eligible = not needs_node
        self.answers: Counter[tuple[str, int]] = Counter()
        """Answers given, by (probe, status): kubeproxy_proxy_{healthz,livez}_total (R109)."""

    def queued(self, now: float) -> None:
        """There is something to program."""
        if self._pending_since is None:
            self._pending_since = now

    def synced(self, now: float) -> None:
        """Everything that is known is programmed; the first time makes the node ready."""
        self._pending_since = None
        self._synced_at = now

    def set_node(self, node: Node | None) -> None:
        """The own Node object, None if there is none (any more).

        One that was seen and has gone is not eligible; that there never was one is all right
        where nobody says that there are Nodes.
        """
        if node is None:
            self._is_eligible = not (self._node_seen or self.needs_node)
            return
        self._node_seen = True
        taints = (node.spec.taints if node.spec else None) or []
        leaving = any(taint.key == _AUTOSCALER_TAINT for taint in taints)
        self._is_eligible = not leaving and node.metadata.deletionTimestamp is None

    @property
    def is_synced(self) -> bool:
        """The first complete programming is done."""
        return self._synced_at is not None

    def is_alive(self, now: float) -> bool:
        """False if an update has been pending for too long (R103)."""
        return self._pending_since is None or now - self._pending_since < PENDING_LIMIT_S

    def healthz(self, now: float) -> Answer:
        """200 exactly if programmed, alive and eligible for load balancers."""
        is_healthy = self.is_synced and self.is_alive(now)
        return self._answer("healthz", now, is_healthy, {"nodeEligible": self._is_eligible})

    def livez(self, now: float) -> Answer:
        """200 exactly if alive; restarting would not help against anything else."""
        return self._answer("livez", now, self.is_alive(now), {})

    def _answer(self, probe: str, now: float, is_healthy: bool, more: dict[str, bool]) -> Answer:
        status = 200 if is_healthy and all(more.values()) else 503
        # the current time whenever the answer is 200 (R105)
        updated = _rfc3339(now if status == 200 else self._synced_at)
        family = {"lastUpdated": updated, "healthy": is_healthy}
        body = {
            "lastUpdated": updated,
            "currentTime": _rfc3339(now),
            **more,
            "healthy": is_healthy,
            "status": {"IPv4": family, "IPv6": family},  # programmed together
        }
        self.answers[probe, status] += 1
        return Answer(status, msgspec.json.encode(body))


def _rfc3339(when: float | None) -> str:
    if when is None:
        return _NEVER
    return datetime.fromtimestamp(when, UTC).isoformat().replace("+00:00", "Z")
