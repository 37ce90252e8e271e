# SPDX-License-Identifier: Apache-2.0
"""A real `vipbee agent` process: its memory, its restart, and who notices the restart."""

from __future__ import annotations

import contextlib
import http.client
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.sockets import state
from bench.sockets.build import Built
from bench.sockets.cluster import CLIENT_CPU
from tests.support.hooked import Hooked
from vipbee.lab.agent import HEALTHZ_PORT, cli_command

READY_TIMEOUT_S = 60.0
PER_SECOND = 5000


@dataclass(frozen=True, slots=True)
class AgentFindings:
    first_ready_s: float  # on empty pins, from process start, parsing included
    rss_mib: float
    peak_mib: float
    restart_ready_s: float
    opened: int
    failed: int
    last_error: int  # errno
    late_ms: float  # how far the open loop fell behind at worst


def measure_agent(
    hooked: Hooked, built: Built, directory: Path, services: int, endpoints: int
) -> AgentFindings:
    """Start on nothing, then end (SIGTERM) and start again while connections are dialled."""
    state_file = directory / "state.json"
    state_file.write_bytes(state.state_file(services, endpoints))
    config = directory / "agent.yaml"
    config.write_text(_map_sizes(hooked))
    command = cli_command(
        [
            *("agent", f"--state-file={state_file}", f"--config={config}"),
            *("--hostname-override=bench", f"--cgroup-root={hooked.cgroup}"),
            *(f"--bpf-root={hooked.bpf_root}", f"--healthz-bind-address=127.0.0.1:{HEALTHZ_PORT}"),
        ]
    )
    with _agent(hooked, command, directory / "agent.log") as (process, first_ready_s):
        time.sleep(3)  # until it has given back what programming took
        rss_mib, peak_mib = _memory(process.pid)
    with _dialling(hooked, built, services) as dialler:
        time.sleep(1)
        with _agent(hooked, command, directory / "agent.log") as (_, restart_ready_s):
            time.sleep(1)
            assert dialler.stdin is not None
            assert dialler.stdout is not None
            dialler.stdin.close()
            said = dialler.stdout.read()
    found = [int(number) for number in re.findall(r"\d+", said)]
    return AgentFindings(
        first_ready_s,
        rss_mib,
        peak_mib,
        restart_ready_s,
        found[0],
        found[1],
        found[3],
        found[2] / 1e3,
    )


@contextlib.contextmanager
def _agent(
    hooked: Hooked, command: list[str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The agent in the namespace, not in the cgroup it serves; and how long until ready."""
    with log.open("ab") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            ["nsenter", f"--net={hooked.netns}", *command], stdout=output, stderr=output
        )
    try:
        while hooked.run(_healthz) != 200:
            if process.poll() is not None or time.monotonic() - started > READY_TIMEOUT_S:
                tail = log.read_text().splitlines()[-3:]
                raise RuntimeError(f"the agent did not become ready: {tail}")
            time.sleep(0.01)
        yield process, time.monotonic() - started
    finally:
        process.terminate()
        process.wait()


def _healthz() -> int:
    connection = http.client.HTTPConnection("127.0.0.1", HEALTHZ_PORT, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _memory(pid: int) -> tuple[float, float]:
    """(VmRSS, VmHWM) in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {name: int(value) for name, value in re.findall(r"^(VmRSS|VmHWM):\s+(\d+)", status, re.M)}
    return kib["VmRSS"] / 1024, kib["VmHWM"] / 1024


@contextlib.contextmanager
def _dialling(hooked: Hooked, built: Built, services: int) -> Iterator[subprocess.Popen[str]]:
    # through a shell that moves itself into the cgroup first: these sockets are the measured ones
    script = f'echo $$ > {hooked.cgroup}/cgroup.procs; exec "$@"'
    arguments = [str(CLIENT_CPU), str(PER_SECOND), state.vip(0), str(services), "80"]
    process = subprocess.Popen(
        [
            "nsenter",
            f"--net={hooked.netns}",
            "sh",
            "-c",
            script,
            "sh",
            str(built.dialer),
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def _map_sizes(hooked: Hooked) -> str:
    wanted = ("frontends", "addresses", "slots", "backends", "services")
    return "map-sizes:\n" + "".join(f"  {name}: {hooked.sizes[name]}\n" for name in wanted)
