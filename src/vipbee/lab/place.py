# SPDX-License-Identifier: Apache-2.0
"""One place of a running lab: run programs in it as if logged in there."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from vipbee.lab.blueprint import PlacePlan
from vipbee.lab.errors import LabError
from vipbee.lab.launch import launch_command
from vipbee.lab.namespaces import namespace_path, run_inside
from vipbee.lab.programs import search_path

RUN_TIMEOUT_S = 30.0
POLL_S = 0.01
SOURCE_ROOT = Path(__file__).parents[2]

T = TypeVar("T")


def child_environment() -> dict[str, str]:
    """The caller's environment, in which `python -m vipbee…` finds this very package."""
    paths = [str(SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": search_path(),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


@dataclass(frozen=True, slots=True)
class Place:
    """A node, a pod or the outside client. `cgroup` is absolute."""

    plan: PlacePlan
    cgroup: Path

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def ipv4(self) -> str:
        return str(self.plan.ipv4)

    @property
    def ipv6(self) -> str:
        return str(self.plan.ipv6)

    def address(self, family: int) -> str:
        """`family`: 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` here from anywhere on this machine."""
        return launch_command(argv, cgroup=self.cgroup, namespace=self._namespace)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        check: bool = False,
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, output as text; raises subprocess.TimeoutExpired (child killed)."""
        return subprocess.run(
            self.command(argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout_s,
            env=child_environment(),
        )

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[str]:
        """Start and return; the caller ends it, else the lab's `down` does."""
        return subprocess.Popen(
            self.command(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=child_environment(),
        )

    def start_daemon(self, argv: Sequence[str], *, log: Path) -> subprocess.Popen[str]:
        """Start something that outlives this process; both outputs are appended to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            return subprocess.Popen(
                self.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                text=True,
                env=child_environment(),
            )

    def inside(self, function: Callable[[], T]) -> T:
        """Call `function` in this network namespace, but not in the cgroup: no hook sees it."""
        return run_inside(self.plan.namespace, function)

    def wait_listening(
        self, port: int, *, addresses: Sequence[str], deadline: float, alive: Callable[[], bool]
    ) -> None:
        """Wait until TCP `port` accepts on each address, dialled from inside this place.

        `deadline` is a time.monotonic() value; raises LabError then, or as soon as
        `alive` says that the server has ended.
        """
        self.inside(lambda: _wait_listening(self.name, port, addresses, deadline, alive))

    @property
    def _namespace(self) -> Path:
        return namespace_path(self.plan.namespace)


def _wait_listening(
    name: str,
    port: int,
    addresses: Sequence[str],
    deadline: float,
    alive: Callable[[], bool],
) -> None:
    for address in addresses:
        while True:
            try:
                socket.create_connection((address, port), timeout=1).close()
                break
            except OSError as error:
                if not alive() or time.monotonic() > deadline:
                    raise LabError(
                        f"{name} does not listen on {address} port {port}: {error}"
                    ) from error
                time.sleep(POLL_S)
