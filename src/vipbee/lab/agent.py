# SPDX-License-Identifier: Apache-2.0
"""One node's `vipbee agent` process: start, kill, restart, wait until ready."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vipbee.lab import cgroups
from vipbee.lab.errors import LabError
from vipbee.lab.place import POLL_S, Place

HEALTHZ_PORT = 10256
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
RUN_CLI = "from vipbee.cli.main import main; main()"
LOG_TAIL_LINES = 5


def cli_command(argv: Sequence[str]) -> list[str]:
    """The `vipbee` command of this very installation, wherever it is installed."""
    return [sys.executable, "-c", RUN_CLI, *argv]


@dataclass(slots=True)
class Agent:
    """`place` is the node with the agent's own child cgroup; `node_cgroup` what it serves."""

    place: Place
    node_cgroup: Path
    bpf_root: Path
    state_file: Path
    log: Path
    options: tuple[str, ...] = ()
    kubeconfig: Path | None = None  # an API server in place of the state file
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def pids(self) -> list[int]:
        return cgroups.processes(self.place.cgroup)

    @property
    def is_running(self) -> bool:
        if self._process is not None:  # it is not in its cgroup yet just after the start
            return self._process.poll() is None
        return bool(self.pids)

    @property
    def process_id(self) -> int:
        """Of the process that `start` started here; LabError if there is none."""
        if self._process is None:
            raise LabError(f"the agent of {self.place.name} was not started here")
        return self._process.pid

    def command(self) -> list[str]:
        source = f"--kubeconfig={self.kubeconfig}" if self.kubeconfig else None
        return cli_command(
            [
                "agent",
                source or f"--state-file={self.state_file}",
                f"--hostname-override={self.place.name}",
                f"--cgroup-root={self.node_cgroup}",
                f"--bpf-root={self.bpf_root}",
                f"--healthz-bind-address=0.0.0.0:{HEALTHZ_PORT}",
                *self.options,
            ]
        )

    def start(self) -> None:
        """Start it; it is not ready yet. Refused if it runs."""
        if self.is_running:
            raise LabError(f"the agent of {self.place.name} runs already")
        self._process = self.place.start_daemon(self.command(), log=self.log)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._signal(signal.SIGTERM)

    def restart(self) -> None:
        """SIGKILL, start, wait until ready."""
        self.kill()
        self.start()
        self.wait_ready()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until /healthz answers 200; LabError with the end of its log if it ends."""
        deadline = time.monotonic() + timeout_s
        while self.place.inside(_healthz) != 200:
            if not self.is_running:
                raise LabError(f"the agent of {self.place.name} ended: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"the agent of {self.place.name} is not ready: {self._log_tail()}")
            time.sleep(POLL_S)

    def vipbee(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run `vipbee <argv>` on this node against this agent's pins."""
        return self.place.run(cli_command([*argv, f"--bpf-root={self.bpf_root}"]))

    def _signal(self, number: signal.Signals) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        pids = set(self.pids)
        if self._process is not None and self._process.poll() is None:
            pids.add(self._process.pid)
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while self.is_running or self.pids:  # its privileged helper ends just after it
            if time.monotonic() > deadline:
                raise LabError(
                    f"the agent of {self.place.name} ignores {number.name}: {self._log_tail()}"
                )
            time.sleep(POLL_S)
        self._process = None

    def _log_tail(self) -> str:
        try:
            return "\n".join(self.log.read_text().splitlines()[-LOG_TAIL_LINES:])
        except FileNotFoundError:
            return "no log"


def _healthz() -> int:
    """Status of GET /healthz in the calling thread's namespace; 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", HEALTHZ_PORT, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
