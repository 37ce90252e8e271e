# SPDX-License-Identifier: Apache-2.0
"""What a client gets when nobody can serve it: R35, R37, R39, R40, R44."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator

import pytest

from tests.support.hooked import Hooked
from tests.support.servers import TCP, UDP
from tests.support.stacks import (
    NODE_ADDRESSES,
    Stack,
    cluster_ip,
    external_ip,
    node_port,
    service_port,
)
from vipbee.abi import Reason
from vipbee.datapath.features import probe_features

TCP_CONNECT, UDP_CONNECT, UDP_SENDTO = "TCP connect", "UDP connect", "UDP sendto"
WAYS = (TCP_CONNECT, UDP_CONNECT, UDP_SENDTO)


@pytest.fixture(scope="module")
def old_namespace(as_root: None) -> Iterator[Hooked]:
    """A kernel below 5.18, where hooks cannot choose their errno."""
    features = dataclasses.replace(probe_features(), set_retval=False)
    with Hooked.up(features=features) as up:
        up.serve()
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


@pytest.fixture
def old(old_namespace: Hooked) -> Hooked:
    old_namespace.program_only()
    return old_namespace


def protocol_of(way: str) -> int:
    return TCP if way == TCP_CONNECT else UDP


def error_of(hooked: Hooked, stack: Stack, way: str, address: str, port: int) -> int:
    """The errno of one attempt, 0 if there was none."""

    def client() -> int:
        try:
            with stack.tcp() if way == TCP_CONNECT else stack.udp() as sock:
                if way == UDP_SENDTO:
                    sock.sendto(b"?", stack.at(address, port))
                else:
                    sock.connect(stack.at(address, port))
        except OSError as error:
            return error.errno or -1
        return 0

    return hooked.run(client)


def reasons_moved(hooked: Hooked, before: dict[Reason, int]) -> dict[Reason, int]:
    after = hooked.reasons()
    return {
        reason: after[reason] - before[reason]
        for reason in Reason
        if after[reason] != before[reason]
    }


@pytest.mark.parametrize("way", WAYS)
def test_no_endpoint_is_refused_at_once(hooked: Hooked, spelling: Stack, way: str) -> None:
    """R35: and counted once, for the Service and the reason."""
    frontend = cluster_ip(spelling.vip(10), 80, protocol_of(way))
    hooked.program_only(service_port("none", frontend, [], family=spelling.family))
    before = hooked.reasons()

    assert error_of(hooked, spelling, way, spelling.vip(10), 80) == errno.ECONNREFUSED

    assert reasons_moved(hooked, before) == {Reason.NO_ENDPOINT: 1}
    counters = {name: count for name, count in hooked.counters("none").items() if count}
    assert counters == {"refused": 1}


@pytest.mark.parametrize("kind", ["ClusterIP", "ExternalIP", "NodePort"])
def test_no_endpoint_is_refused_on_every_frontend(hooked: Hooked, stack: Stack, kind: str) -> None:
    """R35: also where policy Local would drop (R44, R49)."""
    frontends = {
        "ClusterIP": cluster_ip(stack.vip(10), 80, TCP, local=True),
        "ExternalIP": external_ip(stack.external(10), 80, TCP, local=True),
        "NodePort": node_port(stack.family, 30080, TCP, local=True),
    }
    hooked.program_only(service_port("none", list(frontends.values()), [], family=stack.family))
    address = {
        "ClusterIP": (stack.vip(10), 80),
        "ExternalIP": (stack.external(10), 80),
        "NodePort": (stack.node, 30080),
    }[kind]

    assert error_of(hooked, stack, TCP_CONNECT, *address) == errno.ECONNREFUSED
    assert hooked.counters("none")["refused"] == 1


@pytest.mark.parametrize("way", WAYS)
def test_unknown_port_of_a_cluster_ip_is_refused(hooked: Hooked, spelling: Stack, way: str) -> None:
    """R37"""
    frontend = cluster_ip(spelling.vip(10), 80, protocol_of(way))
    hooked.program_only(
        service_port("web", frontend, spelling.backends[:1], family=spelling.family)
    )
    before = hooked.reasons()

    assert error_of(hooked, spelling, way, spelling.vip(10), 81) == errno.ECONNREFUSED

    assert reasons_moved(hooked, before) == {Reason.UNKNOWN_PORT: 1}
    assert not any(hooked.counters("web").values())


def test_same_port_of_the_other_protocol_is_unknown(hooked: Hooked, stack: Stack) -> None:
    """R10, R37"""
    hooked.program_only(
        service_port(
            "dns", cluster_ip(stack.vip(53), 53, UDP), stack.backends[:1], family=stack.family
        )
    )

    assert error_of(hooked, stack, TCP_CONNECT, stack.vip(53), 53) == errno.ECONNREFUSED
    assert error_of(hooked, stack, UDP_CONNECT, stack.vip(53), 53) == 0


@pytest.mark.parametrize("way", WAYS)
def test_unknown_port_of_an_external_ip_passes(hooked: Hooked, stack: Stack, way: str) -> None:
    """R40: left to routing, and this namespace has no route."""
    hooked.program_only(
        service_port(
            "web",
            external_ip(stack.external(10), 80, protocol_of(way)),
            stack.backends[:1],
            family=stack.family,
        )
    )
    before = hooked.reasons()

    assert error_of(hooked, stack, way, stack.external(10), 81) == errno.ENETUNREACH
    assert reasons_moved(hooked, before) == {}


@pytest.mark.parametrize("way", WAYS)
def test_local_policy_without_local_endpoint_is_unreachable(
    hooked: Hooked, spelling: Stack, way: str
) -> None:
    """R44: endpoints exist elsewhere. Until there is a packet layer: an error, not silence."""
    frontend = cluster_ip(spelling.vip(10), 80, protocol_of(way), local=True)
    hooked.program_only(
        service_port("local", frontend, spelling.backends[:2], family=spelling.family)
    )
    before = hooked.reasons()

    assert error_of(hooked, spelling, way, spelling.vip(10), 80) == errno.EHOSTUNREACH

    assert reasons_moved(hooked, before) == {Reason.NO_LOCAL_ENDPOINT: 1}
    counters = {name: count for name, count in hooked.counters("local").items() if count}
    assert counters == {"unreachable": 1}


@pytest.mark.parametrize("way", WAYS)
def test_external_policy_local_does_not_bind_programs_inside(
    hooked: Hooked, stack: Stack, way: str
) -> None:
    """R43, R50, R51: a node without local endpoint still reaches the VIP and the NodePort."""
    protocol = protocol_of(way)
    frontends = [
        external_ip(stack.external(10), 80, protocol, local=True),
        node_port(stack.family, 30080, protocol, local=True),
    ]
    hooked.program_only(service_port("web", frontends, stack.backends[:2], family=stack.family))

    assert error_of(hooked, stack, way, stack.external(10), 80) == 0
    assert error_of(hooked, stack, way, stack.node, 30080) == 0


@pytest.mark.parametrize("way", WAYS)
def test_refusal_on_a_kernel_without_set_retval(old: Hooked, spelling: Stack, way: str) -> None:
    """F47, R35, R37: TCP is refused by a reset from loopback, UDP gets EPERM; never silence."""
    frontend = cluster_ip(spelling.vip(10), 80, protocol_of(way))
    old.program_only(service_port("none", frontend, [], family=spelling.family))
    expected = errno.ECONNREFUSED if way == TCP_CONNECT else errno.EPERM
    before = old.reasons()

    assert error_of(old, spelling, way, spelling.vip(10), 80) == expected
    assert error_of(old, spelling, way, spelling.vip(10), 81) == expected

    assert reasons_moved(old, before) == {Reason.NO_ENDPOINT: 1, Reason.UNKNOWN_PORT: 1}


@pytest.mark.parametrize("way", WAYS)
def test_unreachable_on_a_kernel_without_set_retval(old: Hooked, stack: Stack, way: str) -> None:
    """R44"""
    frontend = cluster_ip(stack.vip(10), 80, protocol_of(way), local=True)
    old.program_only(service_port("local", frontend, stack.backends[:1], family=stack.family))

    assert error_of(old, stack, way, stack.vip(10), 80) == errno.EPERM
