# SPDX-License-Identifier: Apache-2.0
"""The sysctl that lets the node's own addresses in at loopback."""

from __future__ import annotations

from pathlib import Path

from vipbee.datapath.loopback import accept_own_addresses


def test_it_is_set_and_what_others_have_set_stays(tmp_path: Path) -> None:
    path = tmp_path / "accept_local"
    for before, after in (("0\n", "1"), ("1\n", "1\n")):
        path.write_text(before)

        assert accept_own_addresses(path) == ""
        assert path.read_text() == after


def test_what_cannot_be_set_is_said_with_the_way_out(tmp_path: Path) -> None:
    told = accept_own_addresses(tmp_path / "missing")

    assert "missing cannot be set (No such file or directory)" in told
    assert told.endswith("set it to 1")
