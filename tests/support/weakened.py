# SPDX-License-Identifier: Apache-2.0
"""The datapath with one protection taken out: a patched copy of bpf/, compiled as shipped.

Nothing in bpf/ knows of it. An edit that does not find its text is an error, so a protection
that moves or changes takes its test along.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Edit = tuple[str, str, str]
"""(file below bpf/, text, what stands there instead)."""


def compile_weakened(edits: Iterable[Edit], directory: Path) -> Path:
    """The object's path."""
    shutil.copytree(ROOT / "bpf", directory / "bpf")
    shutil.copy2(ROOT / "hatch_build.py", directory)
    for name, text, instead in edits:
        file = directory / "bpf" / name
        before = file.read_text()
        assert text in before, f"bpf/{name} says no more:\n{text}"
        file.write_text(before.replace(text, instead))
    subprocess.run([sys.executable, "hatch_build.py"], cwd=directory, check=True)
    return directory / "src/vipbee/_obj/vipbee.bpf.o"
