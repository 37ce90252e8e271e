# SPDX-License-Identifier: Apache-2.0
"""One step after the other: what a source says, an audit, a retry; and whoever wants to know.

    events ─► take ─┐
    audit, retry, … ┴► step ─► Reconciler ─► health, metrics, `vipbee status`, the log

Synchronous: nothing else runs between what came in and the tables that follow from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vipbee.collection import settle
from vipbee.core.change_log import ChangeLog
from vipbee.errors import CapacityError, KernelError
from vipbee.logs import get_log
from vipbee.model import Problem
from vipbee.noticeboard import Noticeboard
from vipbee.observe.health import Health
from vipbee.observe.metrics import AgentMetrics
from vipbee.reconcile import Applied, Reconciler
from vipbee.sources import events

log = get_log()

MAX_WAITING = 10_000
"""Events whose delay is measured when they come into force after writes had failed."""


class Programming:
    """Runs the steps of one Reconciler.

    `release` ends UDP sockets whose backend is gone and returns how many. `elsewhere` are
    problems that others than the Reconciler know of. `programmed` is called after every step
    that succeeded, `announce` with all problems there are.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        board: Noticeboard,
        health: Health,
        metrics: AgentMetrics,
        changes: ChangeLog,
        *,
        release: Callable[[], int],
        elsewhere: Callable[[], Sequence[Problem]],
        programmed: Callable[[], None],
        announce: Callable[[Sequence[Problem]], None],
    ) -> None:
        self._reconciler = reconciler
        self._board = board
        self._health = health
        self._metrics = metrics
        self._changes = changes
        self._waiting: list[float] = []  # when events came in that are not in force
        self._release = release
        self._elsewhere = elsewhere
        self._programmed = programmed
        self._announce = announce

    def take(self, batch: Sequence[events.SourceEvent]) -> None:
        """Note every event, then program what all of them come to, once (R8)."""
        is_synced = False
        for event in batch:
            self._note(event)
            is_synced = is_synced or isinstance(event, events.Synced)
            if isinstance(event, events.Changed | events.Loaded):
                self._waiting.append(event.received_s)
        del self._waiting[MAX_WAITING:]
        if not is_synced:
            self.step("programmed", self._reconciler.program)
            return
        self.step("first programming", self._reconciler.begin)
        if self._reconciler.needs_audit:
            self.step("audit", self._reconciler.audit)
        settle()
        log.info("ready", services=self._reconciler.counts()[0])

    def step(self, what: str, action: Callable[[], Applied]) -> None:
        """Run one reconcile step and tell everybody who wants to know."""
        started = time.perf_counter()
        if self._reconciler.begun:  # a starting proxy waits for its source and is alive (R103)
            self._health.queued(time.time())
        if self._waiting:
            self._metrics.queued(time.time())
        try:
            applied = action()
        except (KernelError, CapacityError) as error:
            log.error("programming failed, will compare and retry", step=what, reason=str(error))
            return
        took_s = time.perf_counter() - started
        if self._reconciler.is_in_force:
            self._health.synced(time.time())
            self._observe_delays()
        self._health.set_node(self._reconciler.own_node())
        self._programmed()
        self.tell_problems()
        # with every audit too: an agent that was killed may not have come this far
        if applied.backends_withdrawn or what == "audit":
            self._release_sockets()
        if what == "audit":
            self._board.count_audit(repairs=applied.entries)
            self._metrics.repairs += applied.entries
        is_full = what == "first programming"
        if applied.entries or applied.services or is_full or what == "audit":
            self._metrics.observe_sync(took_s, full=is_full)
            self._board.write_card(is_synced=self._reconciler.is_in_force)
        if applied.entries:
            log.info(
                what,
                services=applied.services,
                entries=applied.entries,
                took_ms=round(took_s * 1e3, 2),
            )

    def _observe_delays(self) -> None:
        self._metrics.observe_triggers(self._changes.settle(), time.time())
        waiting, self._waiting = self._waiting, []
        self._metrics.observe_events(waiting, time.monotonic())

    def tell_problems(self) -> None:
        """Log problems that are new and put all where `vipbee status` finds them."""
        problems = [*self._elsewhere(), *self._without_node(), *self._reconciler.problems()]
        self._metrics.problems = len(problems)
        self._announce(problems)
        try:
            fresh = self._board.write_problems(problems)
        except (KernelError, CapacityError) as error:
            log.warning("vipbee status does not show all problems", reason=str(error))
            return
        for problem in fresh:
            log.warning("problem", object=problem.object, reason=problem.message)

    def _without_node(self) -> list[Problem]:
        """Nobody would look for the reason of that 503 in a name."""
        if not self._health.needs_node or not self._reconciler.begun:
            return []
        if self._reconciler.own_node() is not None:
            return []
        name = self._reconciler.node_name
        message = (
            "the API server shows no Node of this name: /healthz answers 503, and topology and"
            " zones are unknown; set --hostname-override, or let the agent list nodes"
        )
        return [Problem(f"Node {name}", message, is_error=False)]

    def _note(self, event: events.SourceEvent) -> None:
        match event:
            case events.Changed():
                self._reconciler.change(event.source, event.objects, event.deleted, event.problems)
            case events.Loaded():
                self._reconciler.fail(event.source, None)
                self._reconciler.replace(event.source, event.objects, event.problems)
                log.info("source loaded", source=event.source, objects=len(event.objects))
            case events.Removed():
                self._reconciler.fail(event.source, None)
                self._reconciler.remove_source(event.source)
                log.info("source removed", source=event.source)
            case events.Failed():
                problem = Problem(event.source, str(event.error), is_error=True)
                self._reconciler.fail(event.source, problem)
                log.warning(
                    "source unusable, last good state stays",
                    source=event.source,
                    reason=str(event.error),
                )
            case events.Recovered():
                self._reconciler.fail(event.source, None)
                log.info("source usable again", source=event.source)
            case events.Synced():
                pass

    def _release_sockets(self) -> None:
        try:
            released = self._release()
        except (OSError, RuntimeError) as error:  # no file descriptor, memory or thread to be had
            log.warning("UDP sockets of backends that are gone stay as they are", reason=str(error))
            return
        if released:
            log.info("released UDP sockets of backends that are gone", sockets=released)
