# SPDX-License-Identifier: Apache-2.0
"""Compile the benchmark's C programs into a temporary directory."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hatch_build import find_clang

_SOURCES = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Built:
    client: Path
    server: Path
    dialer: Path
    noop: Path  # a BPF object


def build(directory: Path) -> Built:
    """Compile everything; raises CalledProcessError if a compiler is missing or unhappy."""
    built = Built(*(directory / name for name in ("client", "server", "dialer", "noop.bpf.o")))
    for program in (built.client, built.server, built.dialer):
        source = _SOURCES / f"{program.name}.c"
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
        subprocess.run(command, check=True)
    subprocess.run(
        [
            find_clang(),
            *("-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-nostdinc"),
            *("-idirafter", "/usr/include"),
            *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"),
            *("-c", str(_SOURCES / "noop.bpf.c"), "-o", str(built.noop)),
        ],
        check=True,
    )
    return built
