# SPDX-License-Identifier: Apache-2.0
"""Run the programs that netfilter's own developers keep: iptables-save, iptables-restore, nft."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from vipbee.errors import EnvironmentUnusable

_TIMEOUT_S = 120  # a hundred thousand rules take many seconds


def is_installed(program: str) -> bool:
    return shutil.which(program) is not None


def run(command: Sequence[str], given: str = "") -> str:
    """What it prints; raise EnvironmentUnusable with its own words if it says no."""
    name = " ".join(command)
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unusable(name, str(error)) from None
    if done.returncode:
        raise _unusable(name, done.stderr.strip().partition("\n")[0] or f"exit {done.returncode}")
    return done.stdout


def _unusable(name: str, said: str) -> EnvironmentUnusable:
    return EnvironmentUnusable(f"`{name}` failed: {said}", remedy="try it by hand, as root")
