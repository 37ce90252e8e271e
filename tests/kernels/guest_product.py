# SPDX-License-Identifier: Apache-2.0
"""Runs inside a guest: the product's own commands.

They run as forks of this process, which has imported everything: that takes seconds each
time under emulation.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

from vipbee import cli
from vipbee.cli import main as main_module

CGROUP = Path("/sys/fs/cgroup/clients")
PINS = Path("/sys/fs/bpf/vipbee")
STATE = Path("/guest/state")
"""A directory of state files."""
HEALTH = "127.0.0.1:10256"
DEADLINE_S = 900.0
"""For a start: seconds where the machine is idle, of which the verifier takes most; a busy one
multiplies them. The host bounds the processor time of the whole run."""

_PLACES = ("--cgroup-root", str(CGROUP), "--bpf-root", str(PINS))
_OPTIONS = {"check": _PLACES, "status": _PLACES[2:], "cleanup": _PLACES[2:]}


def import_everything() -> None:
    for module in pkgutil.iter_modules(cli.__path__):
        importlib.import_module(f"{cli.__name__}.{module.name}")
    importlib.import_module("vipbee.agent")


def start(*arguments: str, output: Path | None = None) -> int:
    """Run `vipbee` with these arguments in a child; return its process id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 70
    try:
        if output is not None:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        sys.argv = ["vipbee", *arguments]
        main_module.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def vipbee(command: str, *arguments: str) -> dict[str, object]:
    output = Path("/tmp", command)
    child = start(command, *arguments, *_OPTIONS[command], output=output)
    _, status = os.waitpid(child, 0)
    return {"exit": os.waitstatus_to_exitcode(status), "output": output.read_text()}


def start_agent(*options: str) -> int:
    """Start an agent and wait until it serves; return its process id."""
    source = ("--state-file", str(STATE), "--hostname-override", "guest")
    agent = start("agent", *source, *_PLACES, "--healthz-bind-address", HEALTH, *options)
    _wait_until_ready(agent)
    return agent


def kill_agent(agent: int) -> None:
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)


def _wait_until_ready(agent: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(agent, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            raise RuntimeError(f"the agent ended with exit code {code}")
        try:
            with urllib.request.urlopen(f"http://{HEALTH}/healthz", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)  # polls a condition; the deadline decides
    raise RuntimeError("the agent was not ready in time")
