# SPDX-License-Identifier: Apache-2.0
"""Another vipbee on this machine, for `vipbee check`. kube-proxy: takeover/findings.py."""

from __future__ import annotations

from pathlib import Path

from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import pins
from vipbee.datapath.finding import Finding, Result


def other_agent(bpf_root: Path) -> Finding:
    what = "another agent"
    if not bpf_root.is_dir() or not pins.is_held(bpf_root):
        return Finding(what, Result.OK, "none holds the lock")
    place = bpf_root / LAYOUT_VERSION
    return Finding(
        what,
        Result.WARNING,
        f"one runs on {place}" if place.is_dir() else f"one is starting on {bpf_root}",
        "stop it before you start one with the same --bpf-root",
    )
