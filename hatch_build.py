# SPDX-License-Identifier: Apache-2.0
"""Compile bpf/vipbee.bpf.c into src/vipbee/_obj/vipbee.bpf.o, for wheels and `make build`.

The object is little-endian BPF bytecode, the same for every architecture, so the
wheel is py3-none-any. Run as a script it only compiles: `python hatch_build.py`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script outside a build environment
    BuildHookInterface = object  # type: ignore[assignment,misc]

ROOT = Path(__file__).resolve().parent
OBJECT = Path("src/vipbee/_obj/vipbee.bpf.o")


def find_clang() -> str:
    """Return the newest clang (>= 14) on PATH; VIPBEE_CLANG overrides."""
    names = [os.environ.get("VIPBEE_CLANG"), *(f"clang-{v}" for v in range(22, 13, -1)), "clang"]
    for name in names:
        if name and (path := shutil.which(name)):
            return path
    sys.exit("clang is not installed: run `make build`, or install clang 14 or newer")


def compile_object(root: Path = ROOT, output: Path | None = None) -> Path:
    """Compile the datapath; return the object's path. The result does not depend on `root`."""
    output = output or root / OBJECT
    output.parent.mkdir(parents=True, exist_ok=True)
    # In place in one step: another process may be loading the object right now.
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    command = [
        find_clang(),
        *("-target", "bpfel", "-mcpu=v3", "-O2", "-g"),
        *("-Wall", "-Wextra", "-Werror"),
        *("-Wno-unused-parameter", "-Wno-missing-field-initializers"),
        *("-nostdinc", "-idirafter", "/usr/include"),
        *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"),
        *(f"-ffile-prefix-map={root}=.", "-fdebug-compilation-dir=."),
        *("-c", "bpf/vipbee.bpf.c", "-o", str(unfinished)),
    ]
    try:
        subprocess.run(command, check=True, cwd=root)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return output


class BpfBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """hatchling entry point: adds the compiled object to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_object(Path(self.root))
        build_data["artifacts"].append(str(OBJECT))
        build_data["pure_python"] = True


if __name__ == "__main__":
    print(compile_object().relative_to(ROOT))
