# SPDX-License-Identifier: Apache-2.0
"""curl and its verdicts, run in a lab's place."""

from __future__ import annotations

import subprocess
from enum import IntEnum

from vipbee.lab import Place


class Curl(IntEnum):
    """curl's exit codes."""

    OK = 0
    FAILED_TO_CONNECT = 7
    TIMED_OUT = 28


def url(address: str, port: int = 80, path: str = "") -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}/{path}"


def curl(
    place: Place, target: str, *options: str, timeout_s: float = 5
) -> subprocess.CompletedProcess[str]:
    return place.run(["curl", "-sS", "--max-time", str(timeout_s), *options, target])
