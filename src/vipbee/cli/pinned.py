# SPDX-License-Identifier: Apache-2.0
"""Opening what is pinned, for commands that look: no lock, no side effect, no agent needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vipbee.errors import EnvironmentUnusable, VipbeeError

if TYPE_CHECKING:
    from vipbee.datapath.kernel import KernelTables
    from vipbee.datapath.pins import PinDirectory

DEFAULT_BPF_ROOT = Path("/sys/fs/bpf/vipbee")

BpfRootOption = Annotated[
    Path, typer.Option("--bpf-root", metavar="PATH", help="bpffs directory of the pins.")
]


class NothingPinnedError(VipbeeError):
    """No agent has programmed anything here; exit 1."""


@contextmanager
def open_tables(bpf_root: Path) -> Iterator[KernelTables]:
    """The pinned tables, to read; raise NothingPinned if there are none."""
    from vipbee.datapath.kernel import KernelTables
    from vipbee.datapath.layouts import load_layouts

    directory = find_pins(bpf_root)
    if directory is None:
        raise NothingPinnedError(
            f"nothing is programmed: {bpf_root} holds no pins; start `vipbee agent`"
        )
    with KernelTables(directory, load_layouts()) as tables:
        yield tables


def find_pins(bpf_root: Path) -> PinDirectory | None:
    """This layout's pins, or None; raise EnvironmentUnusable without the right to look."""
    from vipbee.datapath.pins import open_for_reading, other_layouts

    try:
        directory = open_for_reading(bpf_root)
        others = other_layouts(bpf_root) if directory is None else []
    except PermissionError:
        raise EnvironmentUnusable(f"{bpf_root} cannot be read", remedy="run as root") from None
    if others:
        raise EnvironmentUnusable(
            f"{bpf_root} holds layout {', '.join(others)}, which this version does not read",
            remedy="use the vipbee version that made it",
        )
    return directory
