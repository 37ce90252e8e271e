# SPDX-License-Identifier: Apache-2.0
"""What the operator sets reaches the programs, and everybody who reads along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.hooked import Hooked
from vipbee.config import load_config
from vipbee.core.lifetimes import Lifetimes
from vipbee.datapath import pins
from vipbee.datapath.attached import read_hooks
from vipbee.datapath.hooks import read_config
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.loader import Loaded, load
from vipbee.datapath.objectfile import ObjectFile
from vipbee.packet_layer import DeviceLists, start_packet_layer

LAYOUTS = load_layouts()


@pytest.fixture(scope="module")
def hooked() -> Iterator[Hooked]:
    with Hooked.up(loaded=False) as hooked:
        pins.prepare_root(hooked.bpf_root)
        yield hooked


def start(hooked: Hooked, **flags: object) -> tuple[Loaded, np.void]:
    config, _ = load_config(None, {"state_file": Path("/s"), "packet_lb": True, **flags})
    request = replace(hooked.request(), packet_lb=True, packet_constants=config.packet_constants)
    with pins.exclusive(hooked.bpf_root):
        loaded = load(request)
    assert loaded.packet_problem == ""
    constants = read_config(loaded.directory, LAYOUTS)
    assert constants is not None
    return loaded, constants


def test_the_defaults_of_the_agent_are_those_of_the_datapath(hooked: Hooked) -> None:
    with ObjectFile.open() as shipped:
        compiled = np.frombuffer(shipped.rodata_bytes(), LAYOUTS["config"])[0]
    config, _ = load_config(None, {"state_file": Path("/s")})

    assert {name: int(compiled[name]) for name in config.packet_constants} == dict(
        config.packet_constants
    )


def test_lifetimes_are_the_same_in_programs_sweep_and_lists(hooked: Hooked) -> None:
    """D68: one unit, one clock, one source: the constants that are pinned."""
    _, constants = start(
        hooked,
        conntrack_tcp_timeout_established="24h",
        conntrack_tcp_timeout_transitory="30s",
        conntrack_tcp_timeout_reset="2s",
        conntrack_udp_timeout_stream="1m",
    )

    assert Lifetimes.of(constants) == (86400, 30, 2, 60)


def test_a_restart_with_other_settings_keeps_the_tables(hooked: Hooked) -> None:
    """R8: constants are new, so programs are exchanged; maps and what they hold stay."""
    first, _ = start(hooked)
    map_names = set(first.directory.names("maps"))

    second, constants = start(hooked, nodeport_range="20000-29999", cluster_ip_from_outside=True)

    assert second.adopted
    assert second.replaced
    assert set(second.directory.names("maps")) == map_names
    assert (constants["node_port_first"], constants["node_port_last"]) == (20000, 29999)
    assert (constants["snat_port_first"], constants["snat_port_last"]) == (32768, 65535)
    assert constants["cluster_ip_from_outside"]


def test_sockets_are_served_where_packets_cannot_be(hooked: Hooked) -> None:
    """F46: the packet layer is on by default: what it lacks must not cost the socket layer."""
    too_large = {**hooked.sizes, "conntrack_new_outside": 1 << 31}
    elsewhere = hooked.bpf_root.with_name(f"{hooked.bpf_root.name}-e")
    request = replace(hooked.request(), packet_lb=True, sizes=too_large, bpf_root=elsewhere)
    pins.prepare_root(elsewhere)
    try:
        with pins.exclusive(elsewhere):
            loaded = load(request)
        layer = start_packet_layer(request, loaded, None, DeviceLists())  # type: ignore[arg-type]

        assert not loaded.packet_lb
        assert all(hook.is_attached for hook in read_hooks(loaded.directory))
        (problem,) = layer.problems()
        assert problem.is_error
        assert problem.message.startswith("only sockets on this node are served: ")
    finally:
        pins.remove_everything(elsewhere)
