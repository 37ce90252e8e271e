# SPDX-License-Identifier: Apache-2.0
"""Boots of the kernel matrix: which kernels, with what, and how long they may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import initramfs, vm
from tests.support.debian_kernel import KernelUnavailableError, obtain

HERE = Path(__file__).resolve().parent
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
LEAVES_OUTER_HEADERS = frozenset({"5.10"})
"""Below 5.14 what comes out of a tunnel still has the outer headers in front."""
TIMEOUT_S = 420
MODULES = ("8021q", "ipip", "sit", "dummy", "sctp")

Report = dict[str, Any]


def boot(version: str) -> Report:
    """What guest.py saw on this kernel; raise KernelUnavailableError if it cannot be had."""
    if (reason := vm.missing_tools()) is not None:
        raise KernelUnavailableError(reason)
    package = f"{initramfs.GUEST_SOURCE}/tests/kernels"
    guest = vm.Guest(
        script=HERE / "guest.py",
        requirements=("vipbee",),
        files=(
            *((file, f"{package}/{file.name}") for file in HERE.glob("guest_*.py")),
            *((file, f"/guest/state/{file.name}") for file in HERE.glob("*.yaml")),
        ),
        modules=MODULES,
    )
    seen = vm.run(obtain(SUITES[version], version), guest, timeout_s=TIMEOUT_S)
    assert isinstance(seen, dict)
    return seen
