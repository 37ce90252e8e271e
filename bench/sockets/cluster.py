# SPDX-License-Identifier: Apache-2.0
"""A hooked namespace in which every endpoint of state.py answers."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.sockets import state
from bench.sockets.build import Built
from tests.support.hooked import Hooked

CLIENT_CPU, SERVER_CPU = 0, 1


@contextlib.contextmanager
def cluster(
    built: Built, *, services: int, endpoints: int, loaded: bool = True
) -> Iterator[Hooked]:
    """Maps with room for so many Services; the server listens on every endpoint.

    With `loaded` false neither programs nor maps are there: for an agent to bring them.
    """
    entries = max(4096, 2 * services)
    sizes = {
        "slots": max(4096, 4 * services * endpoints),
        "backends": max(4096, 2 * services * endpoints),
        "backend_counters": max(4096, 2 * services * endpoints),
    }
    with Hooked.up(entries=entries, sizes=sizes, loaded=loaded) as hooked:
        subprocess.run(
            ["ip", "-n", hooked.name, "route", "add", "local", state.ENDPOINTS, "dev", "lo"],
            check=True,
        )
        with _server(hooked, built.server):
            yield hooked


@contextlib.contextmanager
def _server(hooked: Hooked, program: Path) -> Iterator[None]:
    # Outside of the cgroup: what it does costs no hook, and is not counted as such.
    command = ["nsenter", f"--net={hooked.netns}", str(program)]
    command += [str(SERVER_CPU), str(state.PORT), "0.0.0.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()
