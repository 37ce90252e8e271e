# SPDX-License-Identifier: Apache-2.0
"""When a kube-proxy is looked for, refused and cleared away.

Without --takeover: once, before anything is attached; two proxies would contradict each other
as soon as a Service changes. With it: from the first complete programming on, so that at no
moment nobody serves. While a kube-proxy is alive its rules stay, as it would write them again;
and whoever starts one later is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vipbee.errors import EnvironmentUnusable
from vipbee.logs import get_log
from vipbee.model import Problem
from vipbee.takeover.outcome import Step
from vipbee.takeover.rules import find_rules
from vipbee.takeover.running import find_running
from vipbee.takeover.step import take_step

log = get_log()

_SOON_S = 2.0  # while there is something to do
_RARELY_S = 300.0  # kube-proxy may be installed again, by an upgrade of the cluster for one


def refuse_beside_kube_proxy() -> None:
    """Raise EnvironmentUnusable if a kube-proxy runs here or left rules."""
    found = [running] if (running := find_running()) else []
    try:
        rules = find_rules()
    except EnvironmentUnusable as error:  # a mere look must not stop an agent without the right
        log.warning("cannot see whether kube-proxy left rules", reason=error.problem)
    else:
        found += [str(rules)] if rules else []
    if found:
        raise EnvironmentUnusable(
            f"kube-proxy is on this node ({', '.join(found)})",
            remedy="stop kube-proxy and start the agent with --takeover, which removes its rules",
        )


class Takeover:
    """Removes kube-proxy's rules once vipbee serves in its place."""

    def __init__(
        self,
        is_programmed: Callable[[], bool],
        take_step: Callable[[], Step] = take_step,
        *,
        packet_lb: bool,
    ) -> None:
        self._is_programmed = is_programmed
        self._take_step = take_step
        self._packet_lb = packet_lb
        self._problems: tuple[Problem, ...] = ()
        self._lasting: tuple[str, ...] = ()  # about what was removed

    def problems(self) -> tuple[Problem, ...]:
        return self._problems

    async def work(self, tell: Callable[[], None]) -> None:
        """For ever; calls `tell` when the problems are others."""
        while True:
            is_pending = True
            if self._is_programmed():
                before = self._problems
                is_pending = await asyncio.to_thread(self._step)
                if self._problems != before:
                    tell()
            await asyncio.sleep(_SOON_S if is_pending else _RARELY_S)

    def _step(self) -> bool:
        """Look, and remove; True if there is still something to do soon."""
        step = self._take_step()
        if step.running:
            self._say(f"kube-proxy runs ({step.running}): stop it; its rules stay until then")
            return True
        if step.error:
            self._say(f"its rules cannot be removed: {step.error}")
            return True
        if step.found:
            self._report(step)
        self._say(*self._lasting)
        return False

    def _report(self, step: Step) -> None:
        log.info("kube-proxy's rules removed", found=step.found, chains=step.chains)
        messages = [f"{name} stays, it is in use: {by}" for name, by in step.kept.items()]
        if not self._packet_lb:
            messages.append(
                "its rules served clients outside this node, now nobody does:"
                " set packet-lb: true in the --config file"
            )
        self._lasting = tuple(messages)

    def _say(self, *messages: str) -> None:
        self._problems = tuple(Problem("kube-proxy", text, is_error=False) for text in messages)
