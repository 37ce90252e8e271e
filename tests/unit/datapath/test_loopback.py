# SPDX-License-Identifier: Apache-2.0
"""The sysctl that lets the node's own addresses in at loopback."""

from __future__ import annotations

from pathlib import Path

from vipbee.datapath.loopback import accept_own_addresses, refuse_own_addresses
from vipbee.datapath.pins import PinDirectory


def test_it_is_set_and_what_others_have_set_stays(tmp_path: Path) -> None:
    path, pins = tmp_path / "accept_local", PinDirectory(tmp_path / "v1")
    for before, after in (("0\n", "1"), ("1\n", "1\n")):
        path.write_text(before)

        assert accept_own_addresses(pins, path) == ""
        assert path.read_text() == after


def test_it_is_put_back_if_it_was_us_and_only_once(tmp_path: Path) -> None:
    path, pins = tmp_path / "accept_local", PinDirectory(tmp_path / "v1")
    path.write_text("0\n")
    accept_own_addresses(pins, path)
    accept_own_addresses(pins, path)  # by the next agent

    assert refuse_own_addresses(pins, path)
    assert path.read_text() == "0"
    path.write_text("1\n")  # by somebody else
    assert not refuse_own_addresses(pins, path)
    assert path.read_text() == "1\n"


def test_what_others_have_set_is_not_put_back(tmp_path: Path) -> None:
    path, pins = tmp_path / "accept_local", PinDirectory(tmp_path / "v1")
    path.write_text("1\n")
    accept_own_addresses(pins, path)

    assert not refuse_own_addresses(pins, path)
    assert path.read_text() == "1\n"


def test_what_cannot_be_set_is_said_with_the_way_out(tmp_path: Path) -> None:
    told = accept_own_addresses(PinDirectory(tmp_path / "v1"), tmp_path / "missing")

    assert "missing cannot be set (No such file or directory)" in told
    assert told.endswith("set it to 1")
