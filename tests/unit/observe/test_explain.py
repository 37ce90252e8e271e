# SPDX-License-Identifier: Apache-2.0
"""What `vipbee explain` composes. That it says what the datapath does: tests/bpf/test_explain_*."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.readings import (
    LOCAL,
    READY,
    TERMINATING,
    PointTables,
    backend,
    frontend,
    node_port,
    service_port,
)
from vipbee.abi import AddressFlag, BackendFlag, DeviceFlag, FrontendKind, Reason
from vipbee.errors import UsageError
from vipbee.observe.explain.compose import explain
from vipbee.observe.explain.lookups import Lookups
from vipbee.observe.explain.question import parse_question
from vipbee.observe.explain.settings import Settings
from vipbee.observe.explain.view import AnswerView, ExplainView, Layer, Path, Role, Verdict

OWN = AddressFlag.NODE | AddressFlag.OWN | AddressFlag.SNAT
NODES = {
    "172.30.0.1": int(OWN),
    "172.30.0.2": int(AddressFlag.NODE),
    "127.0.0.1": int(AddressFlag.NODE | AddressFlag.OWN | AddressFlag.HOST_ONLY),
}
PACKETS = Settings(packet_lb=True)


@pytest.fixture
def tables() -> PointTables:
    made = PointTables()
    made.program(
        service_port(
            "web",
            frontend("10.96.0.10"),
            frontend("198.51.100.10", FrontendKind.EXTERNAL_IP),
            node_port(30080),
            port_name="http",
            backends=(backend("10.244.1.2", LOCAL), backend("10.244.2.2")),
        ),
        service_port("empty", frontend("10.96.0.11"), port_name="http"),
        nodes=NODES,
    )
    made.add_device(2, DeviceFlag.UPLINK, "172.30.0.1")
    made.add_device(3, DeviceFlag.POD, "172.30.0.1")
    made.add_device(4, 0, "172.30.0.1")
    return made


def ask(
    tables: PointTables,
    destination: str,
    settings: Settings = PACKETS,
    *,
    sender: str | None = None,
    ifindex: int | None = None,
    protocol: str | None = None,
) -> ExplainView:
    lookups = Lookups(
        tables, tables.layouts, settings, now_ns=0, device_names={2: "eth0", 3: "veth1", 4: "br0"}
    )
    question = parse_question(destination, sender=sender, ifindex=ifindex, protocol=protocol)
    return explain(question, lookups)


def answer(view: ExplainView, layer: Layer) -> AnswerView:
    (found,) = (each for each in view.answers if each.layer is layer)
    return found


def said(view: AnswerView, step: str) -> str:
    (found,) = (each.says for each in view.steps if each.step == step)
    return found


# ---- who asks ---------------------------------------------------------------------------


def test_a_program_of_this_node_is_met_at_the_socket_and_where_its_packets_leave(
    tables: PointTables,
) -> None:
    view = ask(tables, "10.96.0.10:80")

    assert (view.sender.role, view.sender.address) == (Role.NODE, "172.30.0.1")
    assert [(a.layer, a.hook) for a in view.answers] == [
        (Layer.SOCKETS, "connect, sendmsg"),
        (Layer.PACKETS, "uplink_out"),
    ]


def test_an_address_that_no_table_knows_gets_both_answers(tables: PointTables) -> None:
    view = ask(tables, "198.51.100.10:80", sender="192.0.2.7")

    assert view.sender.role is None
    assert [(a.role, a.layer) for a in view.answers] == [
        (Role.POD, Layer.SOCKETS),
        (Role.POD, Layer.PACKETS),
        (Role.OUTSIDE, Layer.PACKETS),
    ]
    assert "(--device would)" in said(view.answers[-1], "sender")


@pytest.mark.parametrize(
    ("sender", "ifindex", "role"),
    [
        ("10.244.1.2", None, Role.POD),  # an endpoint on this node
        ("10.244.2.2", 2, Role.OUTSIDE),
        ("10.244.1.77", 3, Role.POD),
        ("10.244.1.77", 4, Role.FORWARDED),
        ("172.30.0.1", None, Role.NODE),
        ("127.0.0.1", None, Role.NODE),
    ],
)
def test_tables_or_the_device_tell_the_role(
    tables: PointTables, sender: str, ifindex: int | None, role: Role
) -> None:
    assert ask(tables, "10.96.0.10:80", sender=sender, ifindex=ifindex).sender.role is role


def test_a_device_that_is_not_followed_is_told_with_those_that_are(tables: PointTables) -> None:
    with pytest.raises(UsageError, match=r"device 9 is none that vipbee follows; .* eth0, veth1"):
        ask(tables, "10.96.0.10:80", sender="192.0.2.7", ifindex=9)


# ---- which frontend, or why none ------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "summary"),
    [
        ("10.96.0.10:80", "ClusterIP of Service default/web, port http"),
        ("198.51.100.10:80", "ExternalIP of Service default/web, port http"),
        (
            "172.30.0.1:30080",
            "NodePort of Service default/web, port http: 30080/TCP of every address that serves"
            " NodePorts",
        ),
        (
            "10.96.0.10:81",
            "no frontend; 10.96.0.10 is a ClusterIP of Service default/web, which has the ports"
            " 80/TCP only",
        ),
        ("172.30.0.1:22", "no frontend; 172.30.0.1 is a node's address, and 22/TCP is no NodePort"),
        (
            "192.0.2.1:80",
            "no frontend; 192.0.2.1 is no address of a Service, nor one that serves NodePorts",
        ),
    ],
)
def test_the_summary_names_it(tables: PointTables, destination: str, summary: str) -> None:
    view = ask(tables, destination)

    assert view.summary == f"{destination}/TCP: {summary}"
    assert (view.frontend is None) is summary.startswith("no frontend")


def test_what_the_agent_reported_is_shown_with_it(tables: PointTables) -> None:
    """About the Service, or about the address: who claims it in vain is another Service."""
    contested = "ExternalIP 198.51.100.10:80/TCP belongs to Service default/web, which is older"
    tables.report("Service default/web", "spec.ports[1].protocol SCTP is not supported")
    tables.report("Service default/other", contested)
    tables.report("Service default/far", "ExternalIP 198.51.100.101:80/TCP belongs to …")

    messages = [problem.message for problem in ask(tables, "198.51.100.10:80").problems]

    assert messages == ["spec.ports[1].protocol SCTP is not supported", contested]


def test_sctp_is_not_balanced(tables: PointTables) -> None:
    """R16, R37."""
    view = ask(tables, "10.96.0.10:80", protocol="sctp")

    assert answer(view, Layer.SOCKETS).verdict is Verdict.PASS
    packets = answer(view, Layer.PACKETS)
    assert (packets.verdict, packets.reason) == (Verdict.DROP, "protocol")


# ---- verdicts -------------------------------------------------------------------------------


def test_a_refusal_has_its_reason_its_count_and_its_errno(tables: PointTables) -> None:
    tables.reason_totals[Reason.NO_ENDPOINT] = 7

    refused = answer(ask(tables, "10.96.0.11:80"), Layer.SOCKETS)

    assert (refused.verdict, refused.errno) == (Verdict.REFUSE, "ECONNREFUSED")
    assert (refused.reason, refused.counted) == ("no_endpoint", 7)
    assert refused.steps[-1].rules == ["R35"]


def test_candidates_have_shares_states_and_what_they_see(tables: PointTables) -> None:
    tables.program(
        service_port(
            "draining",
            frontend("10.96.0.12"),
            backends=(
                backend("10.244.1.4", TERMINATING | BackendFlag.IN_CLUSTER | BackendFlag.ON_NODE),
                backend("10.244.2.4", READY),
            ),
        )
    )

    packets = answer(ask(tables, "10.96.0.12:80", sender="10.244.1.77", ifindex=3), Layer.PACKETS)

    assert [(c.share_percent, c.state, c.node_local, c.path) for c in packets.candidates] == [
        (50.0, "terminating", True, Path.STACK),
        (50.0, "active", False, Path.STACK),
    ]
    assert {tuple(c.seen_as) for c in packets.candidates} == {("10.244.1.77",)}


def test_without_the_packet_layer_packets_pass(tables: PointTables) -> None:
    view = ask(tables, "198.51.100.10:80", Settings(), sender="192.0.2.7")

    assert {a.verdict for a in view.answers if a.layer is Layer.PACKETS} == {Verdict.PASS}
    assert "the packet layer is off" in view.answers[-1].steps[-1].says


def test_without_the_socket_layer_sockets_pass(tables: PointTables) -> None:
    view = ask(tables, "10.96.0.10:80", PACKETS._replace(has_socket_hooks=False))

    assert answer(view, Layer.SOCKETS).verdict is Verdict.PASS
    assert answer(view, Layer.PACKETS).verdict is Verdict.TRANSLATE


def test_loopback_node_ports_are_for_sockets_of_the_node(tables: PointTables) -> None:
    """R91."""
    inside = answer(ask(tables, "127.0.0.1:30080"), Layer.SOCKETS)
    elsewhere = ask(tables, "127.0.0.1:30080", sender="10.244.1.77", ifindex=3)

    assert inside.verdict is Verdict.TRANSLATE
    assert answer(elsewhere, Layer.SOCKETS).verdict is Verdict.PASS
    assert answer(elsewhere, Layer.PACKETS).reason == "martian"


def test_another_nodes_port_is_resolved_at_the_socket_and_left_to_packets(
    tables: PointTables,
) -> None:
    """R53, R89."""
    view = ask(tables, "172.30.0.2:30080")

    assert answer(view, Layer.SOCKETS).verdict is Verdict.TRANSLATE
    assert answer(view, Layer.PACKETS).verdict is Verdict.PASS


def test_tables_that_contradict_themselves_are_a_race(tables: PointTables) -> None:
    """A slot leads to an id that another Service has by now, in an agent's middle."""
    backends = tables.tables.arrays["backends"]  # type: ignore[index]
    backends["service_id"][np.flatnonzero(backends["flags"])] += 1000

    assert answer(ask(tables, "10.96.0.10:80"), Layer.SOCKETS).reason == "table_race"
