# SPDX-License-Identifier: Apache-2.0
"""The helper stays small, and hands over exactly the maps that the agent works with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vipbee.abi import MapName
from vipbee.datapath.kernel import TABLES
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.release import STALE_SOCKET, StaleSocket
from vipbee.datapath.reserved_ports import NOTE
from vipbee.privileged.operations import READABLE_MAPS, RODATA, WRITABLE_MAPS

LARGE = (*("aiohttp", "asyncio", "numpy", "pydantic", "pyroute2", "rich", "ssl", "typer"),)


@pytest.mark.parametrize("process", ["helper", "loading"])
def test_who_has_rights_imports_nothing_large(process: str) -> None:
    """Nor does the agent before it forks the helper."""
    before = "vipbee.cli.main, vipbee.cli.agent, vipbee.config, vipbee.privileged.split"
    code = f"import sys, {before}, vipbee.privileged.{process}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not set(LARGE) & set(done.stdout.split())


def test_the_agent_gets_the_maps_it_works_with_and_no_others() -> None:
    assert {*WRITABLE_MAPS, *READABLE_MAPS} == {*TABLES, RODATA}
    assert not set(WRITABLE_MAPS) & set(READABLE_MAPS)
    assert MapName.SOCKET_FLOWS not in READABLE_MAPS


def test_stale_sockets_are_read_as_abi_h_writes_them() -> None:
    layout = load_layouts()["stale_socket"]

    assert STALE_SOCKET.size == layout.itemsize
    offset = 0
    for name in StaleSocket._fields:
        dtype, at = layout.fields[name][:2]
        assert at == offset
        offset += dtype.itemsize


def test_reserved_ports_are_noted_as_abi_h_writes_them() -> None:
    layout = load_layouts()["reserved_ports"]

    assert NOTE.size == layout.itemsize
    assert [layout.fields[name][1] for name in ("netns_cookie", "bits")] == [0, 8]
