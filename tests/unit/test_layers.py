# SPDX-License-Identifier: Apache-2.0
"""Rules for the tree itself: who includes whom in C, and a licence in every file.

The import direction of Python is in .importlinter; `make check` runs both.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

C_LAYERS: tuple[tuple[str, ...], ...] = (
    # a file includes those above it only; beside each other nobody knows the other
    ("abi.h",),
    ("config.h", "maps.h", "addr.h", "atomic.h", "iter.h"),
    ("count.h", "service.h", "address_filter.h", "tcp_flow.h"),
    ("backend.h", "ctx_tc.h", "port_marks.h", "unallocated.h"),
    ("packet.h",),
    ("conntrack.h", "fib.h", "rewrite.h", "martian.h"),
    ("conntrack_halves.h", "conntrack_seen.h"),
    ("snat.h", "refuse.h", "fragment.h"),
    ("packet_decide.h", "icmp.h", "echo.h", "early_fragment.h"),
    ("open_connection.h", "packet_apply.h"),
    ("to_node.h",),
    ("from_client.h", "from_backend.h", "icmp_apply.h"),
    ("from_node.h",),
    ("node_socket.h",),
    ("socket_state.h",),
    ("sock_decide.h",),
    ("sock_connect.h",),
    ("sock_datagram.h",),
    ("sock.bpf.c", "iter.bpf.c", "tc.bpf.c", "sweep.bpf.c"),
    ("vipbee.bpf.c",),
)
C_FILES = [name for layer in C_LAYERS for name in layer]

DATAPATH_LICENCE = "GPL-2.0-only OR BSD-2-Clause"
LICENCE = "Apache-2.0"
LICENSED_SUFFIXES = {".py", ".c", ".h", ".yaml", ".yml", ".toml", ".lock", ".sh"}


def includes_of(name: str) -> list[str]:
    return re.findall(r'^#include "(\S+)"', (ROOT / "bpf" / name).read_text(), re.MULTILINE)


def files_of_the_project() -> list[Path]:
    """Everything that is written by hand: no tool's folders, nothing that was built."""
    top = [
        path
        for path in ROOT.iterdir()
        if not path.name.startswith(".") and path.name not in {"build", "dist"}
    ]
    return [path for root in top for path in (root, *root.rglob("*")) if path.is_file()]


def test_every_c_file_has_its_layer() -> None:
    present = {path.name for path in (ROOT / "bpf").iterdir() if path.suffix in {".c", ".h"}}

    assert present == set(C_FILES)


@pytest.mark.parametrize("name", C_FILES)
def test_c_file_includes_only_lower_layers(name: str) -> None:
    (position,) = (index for index, layer in enumerate(C_LAYERS) if name in layer)
    lower = {lower_name for layer in C_LAYERS[:position] for lower_name in layer}

    assert set(includes_of(name)) - lower == set()


def test_the_contract_includes_nothing_but_types() -> None:
    text = (ROOT / "bpf" / "abi.h").read_text()

    assert re.findall(r"^#\s*include\s+(\S+)", text, re.MULTILINE) == ["<linux/types.h>"]


def test_every_file_names_its_licence() -> None:
    def expected(path: Path) -> str:
        runs_in_kernel = path.parent == ROOT / "bpf" or path.name.endswith(".bpf.c")
        return DATAPATH_LICENCE if runs_in_kernel else LICENCE

    unlicensed = [
        str(path.relative_to(ROOT))
        for path in files_of_the_project()
        if path.suffix in LICENSED_SUFFIXES or path.parent == ROOT / "tools"
        if f"SPDX-License-Identifier: {expected(path)}" not in path.read_text()[:300]
    ]

    assert unlicensed == []


def test_every_licence_named_has_its_text() -> None:
    names = re.findall(r"[\w.-]+\d[\w.-]*", f"{DATAPATH_LICENCE} {LICENCE}")

    texts = {path.stem for path in (ROOT / "LICENSES").iterdir()}

    assert texts == set(names)
