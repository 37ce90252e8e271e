# SPDX-License-Identifier: Apache-2.0
"""`vipbee explain` beside the shipped socket hooks: it says what connect(2) then does."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from tests.bpf.test_left_to_packets import Packets
from tests.bpf.test_refusal import reasons_moved
from tests.support.hooked import Hooked
from tests.support.servers import TCP, asked, port_of
from tests.support.stacks import (
    BOTH,
    DRAINING,
    NODE_ADDRESSES,
    Stack,
    backend,
    cluster_ip,
    external_ip,
    node_port,
    service_port,
)
from vipbee.abi import FrontendKind, MapName
from vipbee.address import parse_address
from vipbee.datapath.features import probe_features
from vipbee.datapath.hooks import read_config
from vipbee.model import ServicePort, SourceRange
from vipbee.observe.explain.compose import explain
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.question import Question
from vipbee.observe.explain.settings import Settings
from vipbee.observe.explain.view import AnswerView, Layer, Verdict

NOBODY_S = {4: "192.0.2.77", 6: "2001:db8:2::77"}
POD = {4: "10.244.9.9", 6: "fd00:10:244:9::9"}


@pytest.fixture(scope="module", params=["sockets", "packets too", "old kernel"])
def loaded(request: pytest.FixtureRequest, as_root: None) -> Iterator[Hooked]:
    """Alone, beside packet programs, and below 5.18, where hooks cannot choose their errno."""
    features = probe_features()
    if request.param == "old kernel":
        features = dataclasses.replace(features, set_retval=False)
    kind = Packets if request.param == "packets too" else Hooked
    with kind.up(features=features) as up:
        up.serve()
        up.program([], node_addresses=NODE_ADDRESSES)
        yield up


def program(hooked: Hooked, stack: Stack, protocol: int) -> None:
    """A Service for each way it can go."""
    ports = services(stack, protocol)
    if isinstance(hooked, Packets):
        ports.append(ranged(stack, protocol))
    hooked.program_only(*ports)


def ranged(stack: Stack, protocol: int) -> ServicePort:
    balancer = external_ip(stack.external(17), 80, protocol)
    frontends = [
        balancer._replace(kind=int(FrontendKind.LOAD_BALANCER)),
        node_port(stack.family, 30017, protocol),
    ]
    port = service_port("ranged", frontends, stack.backends[:3], family=stack.family)
    bits = 32 if stack.family == 4 else 128
    one = SourceRange(parse_address(NOBODY_S[stack.family]), bits)
    return dataclasses.replace(port, source_ranges=(one,))


def services(stack: Stack, protocol: int) -> list[ServicePort]:

    def numbered(
        name: str, number: int, backends: list[str], *, local: bool = False, affinity_s: int = 0
    ) -> ServicePort:
        frontends = (
            cluster_ip(stack.vip(number), 80, protocol, local=local),
            external_ip(stack.external(number), 80, protocol, local=local),
            node_port(stack.family, 30000 + number, protocol, local=local),
        )
        rows = [backend(address, protocol) for address in backends]
        if name == "here":
            rows = [row._replace(flags=BOTH) for row in rows[:1]] + rows[1:]
        if name == "draining":
            rows[0] = rows[0]._replace(flags=DRAINING)
        family = stack.family
        return service_port(name, frontends, rows, family=family, affinity_timeout_s=affinity_s)

    three = list(stack.backends[:3])
    return [
        numbered("any", 10, three),
        numbered("none", 11, []),
        numbered("elsewhere", 12, three, local=True),
        numbered("here", 13, three, local=True),
        numbered("draining", 14, three),
        numbered("sticky", 15, three, affinity_s=600),
    ]


def destinations(stack: Stack) -> Iterator[tuple[str, int]]:
    for number in range(10, 16):
        yield stack.vip(number), 80
        yield stack.external(number), 80
        yield stack.node, 30000 + number
        yield stack.loopback, 30000 + number
    yield stack.external(17), 80
    yield stack.node, 30017
    yield stack.vip(10), 81
    yield stack.external(10), 81
    yield stack.node, 31999
    yield stack.other, 30010
    yield NOBODY_S[stack.family], 80


def dial(hooked: Hooked, stack: Stack, protocol: int, to: tuple[str, int], times: int) -> set[str]:
    """Names of the backends that answer, in so many attempts."""

    def client() -> set[str]:
        names = set()
        for _ in range(times):
            with stack.tcp() if protocol == TCP else stack.udp() as sock:
                sock.connect(to)
                if protocol == TCP:
                    names.add(asked(sock))
                else:
                    sock.send(b"?")
                    names.add(sock.recv(100).decode().split()[0])
        return names

    return hooked.run(client)


def error_of(
    hooked: Hooked, stack: Stack, protocol: int, to: tuple[str, int], *, new_netns: bool
) -> int:
    """errno of connect(2), 0 if it succeeds."""

    def client() -> int:
        with stack.tcp() if protocol == TCP else stack.udp() as sock:
            return sock.connect_ex(to)

    return hooked.run(client, new_netns=new_netns)


def foretold(
    hooked: Hooked, protocol: int, to: tuple[str, int], sender: str | None = None
) -> AnswerView:
    """What is said about sockets."""
    assert hooked.tables is not None
    config = read_config(hooked.directory, hooked.layouts)
    assert config is not None
    lookups = Lookups(
        hooked.tables,
        hooked.layouts,
        Settings.of(config, has_socket_hooks=True),
        now_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
    )
    source = parse_address(sender) if sender is not None else None
    view = explain(Question(parse_address(to[0]), to[1], protocol, source), lookups)
    (answer,) = (answer for answer in view.answers if answer.layer is Layer.SOCKETS)
    return answer


def opened(hooked: Hooked) -> int:
    """Connections of all Services that were translated."""
    assert hooked.tables is not None
    return int(hooked.tables.read_array(MapName.SERVICE_COUNTERS)["opened"].sum())


@pytest.mark.parametrize("protocol", [TCP, socket.IPPROTO_UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("is_pod", [False, True], ids=["node", "pod"])
def test_connect_fares_as_foretold(
    loaded: Hooked, stack: Stack, protocol: int, is_pod: bool
) -> None:
    """R35, R37, R40, R43, R44, R50, R51, R80, R91: verdict, reason, errno."""
    program(loaded, stack, protocol)
    verdicts = set()
    for to in destinations(stack):
        answer = foretold(loaded, protocol, to, POD[stack.family] if is_pod else None)
        before, opened_before = loaded.reasons(), opened(loaded)

        error = error_of(loaded, stack, protocol, to, new_netns=is_pod)

        moved = reasons_moved(loaded, before)
        assert [reason.name.lower() for reason in moved] == [answer.reason] * bool(answer.reason)
        assert opened(loaded) - opened_before == (answer.verdict is Verdict.TRANSLATE), to
        # below 5.18 TCP's errno comes from loopback, which is down in a fresh namespace
        if answer.verdict is Verdict.REFUSE and (loaded.features.set_retval or not is_pod):
            assert errno.errorcode[error] == answer.errno, to
        elif answer.verdict is Verdict.TRANSLATE and not is_pod:
            assert error == 0
        verdicts.add(answer.verdict)

    assert verdicts == {Verdict.PASS, Verdict.TRANSLATE, Verdict.REFUSE}


@pytest.mark.parametrize("protocol", [TCP, socket.IPPROTO_UDP], ids=["tcp", "udp"])
def test_every_backend_that_is_named_answers_and_nobody_else(
    loaded: Hooked, stack: Stack, protocol: int
) -> None:
    """R30, R33, R43, R61: also after affinity remembers one."""
    program(loaded, stack, protocol)
    for to, _ in itertools.product(destinations(stack), range(2)):
        answer = foretold(loaded, protocol, to)
        if answer.verdict is Verdict.TRANSLATE:
            named = {candidate.address for candidate in answer.candidates}
            assert {candidate.port for candidate in answer.candidates} == {port_of(protocol)}
            is_sticky = to[1] == 30015 or to[0] in (stack.vip(15), stack.external(15))

            answered = dial(loaded, stack, protocol, to, times=1 if is_sticky else 60)

            assert answered <= named if is_sticky else answered == named


def test_affinity_of_the_node_is_known_by_its_namespace(loaded: Hooked, stack: Stack) -> None:
    """R61: shared by all frontends of a Service port."""
    program(loaded, stack, TCP)
    assert len(foretold(loaded, TCP, (stack.vip(15), 80)).candidates) == 3

    (name,) = dial(loaded, stack, TCP, (stack.vip(15), 80), times=3)
    (candidate,) = foretold(loaded, TCP, (stack.node, 30015)).candidates

    assert (candidate.address, candidate.share_percent) == (name, 100)
