# SPDX-License-Identifier: Apache-2.0
"""`vipbee explain` for people, and what it says about input that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vipbee.cli.explain import _print
from vipbee.cli.main import run
from vipbee.observe.explain.view import (
    AnswerView,
    CandidateView,
    ExplainView,
    Layer,
    Role,
    SenderView,
    Step,
    StepView,
    Verdict,
)
from vipbee.observe.explain.view import Path as Way


def view(*answers: AnswerView) -> ExplainView:
    return ExplainView(
        address="10.96.0.10",
        port=80,
        protocol="TCP",
        sender=SenderView(address=None, port=None, device=None, role=Role.OUTSIDE),
        frontend=None,
        summary="10.96.0.10:80/TCP: …",
        problems=[],
        answers=list(answers),
    )


def answer(verdict: Verdict, reason: str | None = None, counted: int | None = None) -> AnswerView:
    return AnswerView(
        layer=Layer.PACKETS,
        role=Role.OUTSIDE,
        hook="uplink_in",
        verdict=verdict,
        reason=reason,
        counted=counted,
        steps=[StepView(step=Step.POLICY, says="policy Cluster", rules=["R28", "R29"])],
        candidates=[],
    )


def test_a_drop_is_printed_with_its_reason_and_count(capsys: pytest.CaptureFixture[str]) -> None:
    _print(view(answer(Verdict.DROP, "source_range", 1234)))

    assert capsys.readouterr().out.splitlines() == [
        "10.96.0.10:80/TCP: …",
        "",
        "Packets, from outside, at uplink_in: drop; source_range, counted 1,234 times so far",
        "STEP    WHAT            RULES",
        "policy  policy Cluster  R28 R29",
    ]


def test_candidates_are_printed_with_share_and_what_they_see(
    capsys: pytest.CaptureFixture[str],
) -> None:
    translated = answer(Verdict.TRANSLATE)
    translated.candidates = [
        CandidateView(
            address="fd00::2",
            port=8080,
            share_percent=33.3,
            state="terminating",
            node_local=False,
            path=Way.REDIRECT,
            seen_as=["fd00::a", "fd00::b"],
        )
    ]
    _print(view(translated))

    assert capsys.readouterr().out.splitlines()[-2:] == [
        "BACKEND         SHARE  STATE        NODE   PATH      SEEN AS",
        "[fd00::2]:8080  33.3%  terminating  other  redirect  fd00::a or fd00::b",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["10.96.0.10"], 2, "has no port"),
        (["10.96.0.10:80", "--protocol", "icmp"], 2, "protocol 'icmp' is not one of"),
        (["10.96.0.10:80", "--from", "x"], 2, "'x' is not an IP address"),
        (
            ["10.96.0.10:80", "--from", "192.0.2.7", "--device", "no-such-0"],
            2,
            "there is no device no-such-0 here",
        ),
        (["10.96.0.10:80"], 1, "nothing is programmed"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["explain", *arguments, f"--bpf-root={tmp_path}"]) == code

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
