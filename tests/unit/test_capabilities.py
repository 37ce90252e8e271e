# SPDX-License-Identifier: Apache-2.0
"""Which rights are lacking, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vipbee.datapath import capabilities
from vipbee.errors import EnvironmentUnusable

NET_ADMIN, SYS_ADMIN, PERFMON, BPF = (1 << bit for bit in (12, 21, 38, 39))


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (0, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]),
        (BPF | PERFMON | NET_ADMIN, []),
        (BPF | NET_ADMIN, ["CAP_PERFMON"]),
        (SYS_ADMIN, ["CAP_NET_ADMIN"]),  # implies the other two
        (SYS_ADMIN | NET_ADMIN, []),
    ],
)
def test_lacking_capabilities_are_named(
    held: int, lacking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "_effective", lambda: held)

    assert capabilities.lacking() == lacking


def test_lacking_capability_is_an_unusable_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_effective", lambda: SYS_ADMIN)

    with pytest.raises(EnvironmentUnusable, match=r"^CAP_NET_ADMIN not effective: run as root"):
        capabilities.require()


def test_missing_proc_is_an_unusable_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F67: nothing of the kernel's can be read without it."""
    monkeypatch.setattr(capabilities, "_STATUS", tmp_path / "proc" / "self" / "status")

    with pytest.raises(EnvironmentUnusable, match=r"^there is no /proc: mount it"):
        capabilities.require()
