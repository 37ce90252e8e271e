# SPDX-License-Identifier: Apache-2.0
"""Ranges of ports and sets of ports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipbee.core.port_ranges import (
    NODE_PORTS,
    PortRange,
    format_port_list,
    parse_port_list,
    parse_port_range,
    source_ports_beside,
)

RANGES = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(
    lambda ends: PortRange(min(ends), max(ends))
)


@pytest.mark.parametrize("text", ["30000-32767", "30000,32767", " 30000 : 32767 "])
def test_a_range_is_read_as_its_writers_spell_it(text: str) -> None:
    """kube-apiserver, Cilium, Calico."""
    assert parse_port_range(text) == NODE_PORTS


@given(RANGES)
def test_a_range_survives_its_text(ports: PortRange) -> None:
    assert parse_port_range(str(ports)) == ports


def test_source_ports_are_the_usual_ones_beside_the_usual_nodeports() -> None:
    assert source_ports_beside(NODE_PORTS) == (32768, 65535)


def test_source_ports_go_below_only_if_little_is_left_above() -> None:
    assert source_ports_beside(PortRange(32768, 60000)) == (60001, 65535)
    assert source_ports_beside(PortRange(30000, 65000)) == (1024, 29999)


@given(RANGES)
def test_source_ports_never_overlap_nodeports(ports: PortRange) -> None:
    """D107"""
    found = source_ports_beside(ports)

    assert not found.overlaps(ports) or found.size <= 0


@given(st.frozensets(st.integers(0, 65535)))
def test_a_set_of_ports_survives_its_text(ports: frozenset[int]) -> None:
    assert parse_port_list(format_port_list(ports)) == ports


def test_a_set_of_ports_is_written_as_the_kernel_does() -> None:
    assert format_port_list({3, 1, 2, 8080}) == "1-3,8080"
    assert parse_port_list("\n") == frozenset()


def test_what_is_no_set_of_ports_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' is no port"):
        parse_port_list("1-3,x")
