# SPDX-License-Identifier: Apache-2.0
"""An answer while it is being found: steps so far, and the ways to end, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from vipbee.abi import Reason
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.view import (
    AnswerView,
    CandidateView,
    ConnectionView,
    Layer,
    Role,
    Step,
    StepView,
    Verdict,
)


class Story:
    """`say` adds a step; everything else ends the story and returns the answer."""

    def __init__(self, lookups: Lookups, layer: Layer, role: Role, hook: str) -> None:
        self._lookups = lookups
        self._answer = AnswerView(layer=layer, role=role, hook=hook, steps=[], candidates=[])

    def say(self, step: Step, says: str, *rules: str) -> None:
        self._answer.steps.append(StepView(step=step, says=says, rules=list(rules)))

    def moves_to(self, hook: str) -> None:
        """What the first hook passes is met again where it leaves."""
        self._answer.hook = hook

    def notes(self, connection: ConnectionView) -> None:
        self._answer.connection = connection

    def passes(
        self,
        says: str,
        *rules: str,
        reason: Reason | None = None,
        left_to_packets: bool = False,
    ) -> AnswerView:
        self._answer.left_to_packets = left_to_packets
        return self._ends(Verdict.PASS, says, rules, reason)

    def translates(self, candidates: Sequence[CandidateView], says: str, *rules: str) -> AnswerView:
        self._answer.candidates = list(candidates)
        return self._ends(Verdict.TRANSLATE, says, rules)

    def restores(self, says: str, *rules: str) -> AnswerView:
        return self._ends(Verdict.RESTORE, says, rules)

    def refuses(
        self, reason: Reason, says: str, *rules: str, errno: str | None = None
    ) -> AnswerView:
        self._answer.errno = errno
        return self._ends(Verdict.REFUSE, says, rules, reason)

    def drops(self, reason: Reason, says: str, *rules: str) -> AnswerView:
        return self._ends(Verdict.DROP, says, rules, reason)

    def _ends(
        self, verdict: Verdict, says: str, rules: tuple[str, ...], reason: Reason | None = None
    ) -> AnswerView:
        self.say(Step.VERDICT, says, *rules)
        self._answer.verdict = verdict
        if reason is not None:
            self._answer.reason = reason.name.lower()
            self._answer.counted = self._lookups.counted(reason)
        return self._answer
