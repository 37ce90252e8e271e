# SPDX-License-Identifier: Apache-2.0
"""What the socket hooks leave untranslated while packet programs run (R44, R80).

Here is no route to a VIP, so what is left alone fails with ENETUNREACH. What packets make
of it: test_packet_matrix_node.py, tests/net/test_packets_left.py.
"""

from __future__ import annotations

import dataclasses
import errno
import subprocess
from collections.abc import Iterator

import pytest

from tests.bpf.test_refusal import WAYS, error_of, protocol_of, reasons_moved
from tests.support.hooked import Hooked
from tests.support.servers import TCP
from tests.support.stacks import NODE_ADDRESSES, Stack, cluster_ip, external_ip, service_port
from vipbee.abi import FrontendKind, Reason
from vipbee.address import parse_address
from vipbee.datapath.loader import LoadRequest
from vipbee.model import SourceRange


class Packets(Hooked):
    """With the packet programs loaded; they are attached to no device."""

    def request(self, *, bind_protection: bool = False) -> LoadRequest:
        request = super().request(bind_protection=bind_protection)
        return dataclasses.replace(request, packet_lb=True)


@pytest.fixture(scope="module")
def loaded(as_root: None) -> Iterator[Hooked]:
    with Packets.up() as up:
        assert up.loaded is not None
        assert up.loaded.packet_lb
        up.serve()
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


@pytest.fixture
def packets(loaded: Hooked) -> Hooked:
    loaded.program_only()
    return loaded


@pytest.mark.parametrize("way", WAYS)
def test_policy_local_without_local_endpoint_is_left_alone(
    packets: Hooked, spelling: Stack, way: str
) -> None:
    """R44: the packet is dropped, and counted there."""
    frontend = cluster_ip(spelling.vip(10), 80, protocol_of(way), local=True)
    packets.program_only(
        service_port("local", frontend, spelling.backends[:2], family=spelling.family)
    )
    before = packets.reasons()

    assert error_of(packets, spelling, way, spelling.vip(10), 80) == errno.ENETUNREACH
    assert reasons_moved(packets, before) == {}


@pytest.mark.parametrize("way", WAYS)
def test_policy_local_without_any_endpoint_is_refused_here(
    packets: Hooked, spelling: Stack, way: str
) -> None:
    """R35."""
    frontend = cluster_ip(spelling.vip(10), 80, protocol_of(way), local=True)
    packets.program_only(service_port("none", frontend, [], family=spelling.family))
    before = packets.reasons()

    assert error_of(packets, spelling, way, spelling.vip(10), 80) == errno.ECONNREFUSED
    assert reasons_moved(packets, before) == {Reason.NO_ENDPOINT: 1}


@pytest.mark.parametrize("way", WAYS)
def test_a_vip_with_source_ranges_is_left_alone(packets: Hooked, stack: Stack, way: str) -> None:
    """R80, R81: and no other frontend of that Service."""
    protocol = protocol_of(way)
    balancer = external_ip(stack.external(10), 80, protocol)._replace(
        kind=int(FrontendKind.LOAD_BALANCER)
    )
    frontends = [balancer, cluster_ip(stack.vip(10), 80, protocol)]
    port = service_port("ranged", frontends, stack.backends[:1], family=stack.family)
    one = SourceRange(parse_address(stack.vip(0)), 32 if stack.family == 4 else 128)
    packets.program_only(dataclasses.replace(port, source_ranges=(one,)))

    assert error_of(packets, stack, way, stack.external(10), 80) == errno.ENETUNREACH
    assert error_of(packets, stack, way, stack.vip(10), 80) == 0


class Masqueraded(Packets):
    """As with masquerade-all."""

    def request(self, *, bind_protection: bool = False) -> LoadRequest:
        request = super().request(bind_protection=bind_protection)
        return dataclasses.replace(request, packet_constants={"masquerade_all": 1})


@pytest.mark.parametrize("way", WAYS)
def test_cluster_ips_are_left_alone_in_pods_where_they_are_masqueraded(
    as_root: None, stack: Stack, way: str
) -> None:
    """R56: not other VIPs, and not for programs of the node, who show its address anyway."""
    protocol = protocol_of(way)
    with Masqueraded.up() as masqueraded:
        masqueraded.serve()
        masqueraded.program([], node_addresses=NODE_ADDRESSES)
        frontends = [
            cluster_ip(stack.vip(10), 80, protocol),
            external_ip(stack.external(10), 80, protocol),
        ]
        port = service_port("all", frontends, stack.backends[:1], family=stack.family)
        masqueraded.program_only(port)

        assert error_of(masqueraded, stack, way, stack.vip(10), 80) == 0
        assert error_of(masqueraded, stack, way, stack.external(10), 80) == 0
        assert error_in_pod(masqueraded, stack, protocol, stack.external(10)) != errno.ENETUNREACH
        assert error_in_pod(masqueraded, stack, protocol, stack.vip(10)) == errno.ENETUNREACH


def error_in_pod(hooked: Hooked, stack: Stack, protocol: int, address: str) -> int:
    """Of a connect in a namespace from which a way leads to the backend and none to VIPs."""
    backend = stack.backends[0]

    def client() -> int:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "addr", "add", backend, "dev", "lo"], check=True)
        with stack.tcp() if protocol == TCP else stack.udp() as sock:
            return sock.connect_ex(stack.at(address, 80))

    return hooked.run(client, new_netns=True)
