# SPDX-License-Identifier: Apache-2.0
"""What the shipped object is made of. That it loads: tests/bpf."""

from __future__ import annotations

from vipbee.datapath.objectfile import ObjectFile

PROG_ARRAY = 3  # linux/bpf.h, enum bpf_map_type


def test_there_are_no_tail_calls() -> None:
    """F45: the kernel empties an array of programs when its last pin goes, and hooks with it."""
    with ObjectFile.open() as shipped:
        types = {name: shipped.map_shape(name)[0] for name in shipped.map_names}

    assert len(types) > 20
    assert PROG_ARRAY not in types.values()
