# SPDX-License-Identifier: Apache-2.0
"""How `vipbee check` reports; what it finds on this kernel is in tests/bpf/test_check.py."""

from __future__ import annotations

import json

import pytest

from vipbee.cli import check as check_module
from vipbee.cli.main import run
from vipbee.datapath.finding import Finding, Result, missing

FINE = Finding("kernel BTF", Result.OK, "/sys/kernel/btf/vmlinux")
OTHER = Finding("bpf_set_retval", Result.FALLS_BACK, "EPERM at once")
LEFTOVER = Finding("kube-proxy in iptables", Result.WARNING, "12 chains", "remove them")
BROKEN = missing("bpffs", "not mounted", "mount it")


def report(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(check_module, "find", lambda *_: list(findings))


def test_fallbacks_and_warnings_do_not_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, FINE, OTHER, LEFTOVER)

    assert run(["check"]) == 0

    printed = capsys.readouterr()
    assert "bpf_set_retval          falls back  EPERM at once" in printed.out
    assert "kube-proxy in iptables: remove them" in printed.out
    assert printed.out.endswith("\nThis machine can run vipbee, with 1 fallback and 1 warning.\n")
    assert printed.err == ""


def test_a_machine_with_everything_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, FINE)

    assert run(["check"]) == 0
    assert capsys.readouterr().out.endswith("\n\nThis machine can run vipbee.\n")


def test_blocking_problem_exits_3_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, FINE, BROKEN)

    assert run(["check"]) == 3

    printed = capsys.readouterr()
    assert "bpffs       missing  not mounted" in printed.out
    assert printed.out.endswith("\nThis machine cannot run vipbee yet.\n")
    assert printed.err == "vipbee: bpffs: not mounted: mount it\n"


def test_json_has_the_documented_members(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, BROKEN)

    assert run(["check", "-o", "json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "usable": False,
        "findings": [
            {"what": "bpffs", "result": "missing", "used": "not mounted", "remedy": "mount it"}
        ],
    }
