# SPDX-License-Identifier: Apache-2.0
"""An empty network namespace without a name, which ends with the test, also with a killed one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence

_READY = "ip link set lo up && echo ready && exec sleep infinity"


class ScratchNetns:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(
        self, command: Sequence[str], *, given: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run to its end inside; with its output and errors as text."""
        done = subprocess.run(
            [*self.enter, *command], input=given, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done

    @property
    def enter(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")


@contextlib.contextmanager
def scratch_netns() -> Iterator[ScratchNetns]:
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", _READY],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield ScratchNetns(holder.pid)
    finally:
        holder.kill()
        holder.communicate()
