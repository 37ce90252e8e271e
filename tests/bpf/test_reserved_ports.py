# SPDX-License-Identifier: Apache-2.0
"""ip_local_reserved_ports: NodePorts are added and taken away, the administrator's stay."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.hooked import Hooked
from vipbee.core.port_ranges import NODE_PORTS, PortRange
from vipbee.datapath.reserved_ports import PATH, is_writable, missing_ports, reserve

Set = Callable[[PortRange | None], bool]


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    with Hooked.up() as hooked:
        yield hooked


def bring(hooked: Hooked, wanted: PortRange | None) -> bool:
    return hooked.run(lambda: reserve(hooked.directory, wanted))


def reserved(hooked: Hooked) -> str:
    return hooked.run(lambda: PATH.read_text().strip())


def administrate(hooked: Hooked, text: str) -> None:
    hooked.run(lambda: PATH.write_text(text + "\n") and None)


def test_nodeports_are_reserved_and_given_back(hooked: Hooked) -> None:
    """D107"""
    assert hooked.run(lambda: missing_ports(NODE_PORTS)) == NODE_PORTS.size
    assert hooked.run(is_writable)

    assert bring(hooked, NODE_PORTS)
    assert reserved(hooked) == "30000-32767"
    assert hooked.run(lambda: missing_ports(NODE_PORTS)) == 0
    assert not bring(hooked, NODE_PORTS)  # nothing to do

    assert bring(hooked, None)
    assert reserved(hooked) == ""


def test_what_the_administrator_reserved_stays(hooked: Hooked) -> None:
    """Also inside the range, and also if it is reserved while the agent runs."""
    administrate(hooked, "8080,30500-30600")
    bring(hooked, NODE_PORTS)
    assert reserved(hooked) == "8080,30000-32767"
    administrate(hooked, "8080,9090,30000-32767")

    bring(hooked, None)

    assert reserved(hooked) == "8080,9090,30500-30600"


def test_another_range_replaces_the_first(hooked: Hooked) -> None:
    """F27"""
    administrate(hooked, "8080")
    bring(hooked, NODE_PORTS)

    bring(hooked, PortRange(20000, 20010))

    assert reserved(hooked) == "8080,20000-20010"


def test_what_somebody_took_away_is_reserved_again(hooked: Hooked) -> None:
    """R130: `sysctl --system` sets what its files say."""
    bring(hooked, NODE_PORTS)
    administrate(hooked, "8080")

    assert bring(hooked, NODE_PORTS)
    assert reserved(hooked) == "8080,30000-32767"


def test_a_note_of_another_namespace_is_not_believed(hooked: Hooked) -> None:
    """Cleanup elsewhere must not take away what an administrator reserved there."""
    bring(hooked, NODE_PORTS)
    note = hooked.directory
    here = PATH.read_text()

    assert not reserve(note, None)  # this very namespace: not the hooked one
    assert PATH.read_text() == here
    assert reserved(hooked) == "30000-32767"


def test_connections_of_the_node_start_elsewhere(hooked: Hooked) -> None:
    """R94, D107: shown with an ephemeral range that lies within the NodePorts but for few."""

    def source_ports() -> set[int]:
        PATH.with_name("ip_local_port_range").write_text("32700 32779\n")
        found = set()
        with socket.create_server(("127.0.0.1", 0)) as server:
            clients = [socket.create_connection(server.getsockname()) for _ in range(6)]
            found = {client.getsockname()[1] for client in clients}
            for client in clients:
                client.close()
        return found

    assert min(hooked.run(source_ports)) <= NODE_PORTS.last

    bring(hooked, NODE_PORTS)

    assert min(hooked.run(source_ports)) > NODE_PORTS.last
