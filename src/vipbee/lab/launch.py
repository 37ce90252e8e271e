# SPDX-License-Identifier: Apache-2.0
"""Start programs in a place: its cgroup first, then its namespace, then exec.

The order matters twice: a socket belongs to the cgroup its maker was in, so the
cgroup must be right before the program's first instruction; and entering through
`sh` and `nsenter` keeps the pid, the terminal and the exit code those of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ENTER = 'echo 0 >"$1/cgroup.procs" && shift && exec nsenter --net="$@"'


def launch_command(argv: Sequence[str], *, cgroup: Path, namespace: Path) -> list[str]:
    """Wrap `argv` so that it runs in `cgroup` and `namespace`; needs root."""
    return ["/bin/sh", "-c", ENTER, "launch", str(cgroup), str(namespace), "--", *argv]
