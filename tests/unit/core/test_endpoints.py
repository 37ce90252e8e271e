# SPDX-License-Identifier: Apache-2.0
"""Joining, merging, conditions and topology of endpoints: R11–R13, R17–R31, R69–R75, R110."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.services import endpoint, endpoint_slice
from vipbee.abi import BackendFlag
from vipbee.address import format_endpoint, parse_address
from vipbee.core import endpoints as module
from vipbee.core.endpoint_sets import PortEndpoints
from vipbee.core.endpoints import EndpointTable
from vipbee.core.nodes import NodeView
from vipbee.model import EndpointSlice

NODE = NodeView(name="n1", zone="z1")


def table(*slices: EndpointSlice, family: int = 4, node: NodeView = NODE) -> EndpointTable:
    return EndpointTable(slices, family=family, node=node)


def port(*slices: EndpointSlice, name: str = "", protocol: str = "TCP") -> PortEndpoints:
    return table(*slices).port(name, protocol)


def places(found: PortEndpoints, flag: BackendFlag = BackendFlag.SERVING) -> list[str]:
    return [format_endpoint(b.address, b.port) for b in found.backends if b.flags & flag]


def hosts(found: PortEndpoints, flag: BackendFlag) -> str:
    """The backends with this flag, by the last part of their address: "1 3"."""
    return " ".join(place.split(".")[-1].split(":")[0] for place in places(found, flag))


def sets(*members: dict[str, Any], node: NodeView = NODE) -> tuple[str, str]:
    """Cluster set and Local set of one slice."""
    found = table(endpoint_slice(*members), node=node).port("", "TCP")
    return hosts(found, BackendFlag.IN_CLUSTER), hosts(found, BackendFlag.IN_LOCAL)


# ---- joining


@pytest.mark.parametrize(
    ("slice_port", "name", "protocol", "is_joined"),
    [
        ({"name": "http", "port": 1}, "http", "TCP", True),
        ({"name": "http", "port": 1, "protocol": "UDP"}, "http", "TCP", False),
        ({"name": "http", "port": 1, "protocol": "UDP"}, "http", "UDP", True),
        ({"name": "web", "port": 1}, "http", "TCP", False),
        ({"name": "", "port": 1}, "", "TCP", True),
        ({"name": "", "port": 1}, "http", "TCP", False),
        ({"name": "http", "port": 1}, "", "TCP", False),
        ({"port": 1}, "", "TCP", True),  # nil name is "" once the API server has seen it
    ],
)
def test_slice_port_joins_by_name_and_protocol(
    slice_port: dict[str, Any], name: str, protocol: str, is_joined: bool
) -> None:
    """F24, R11, R12"""
    found = port(endpoint_slice("10.0.0.1", ports=[slice_port]), name=name, protocol=protocol)

    assert places(found) == (["10.0.0.1:1"] if is_joined else [])


@pytest.mark.parametrize("number", [None, 0, 65536, -1])
def test_port_without_usable_number_leaves_its_siblings_alone(number: int | None) -> None:
    """F24, R12"""
    odd = endpoint_slice(
        "10.0.0.1", ports=[{"name": "a", "port": number}, {"name": "b", "port": 2}]
    )

    assert places(port(odd, name="a")) == []
    assert places(port(odd, name="b")) == ["10.0.0.1:2"]


@pytest.mark.parametrize(
    ("slice_port", "message"),
    [
        ({"port": 65536}, "ports[0].port 65536 is not in 1..65535: the port is ignored"),
        (
            {"port": 1, "protocol": "tcp"},
            "ports[0].protocol 'tcp' is not TCP, UDP or SCTP: the port is ignored",
        ),
    ],
)
def test_invalid_slice_port_is_reported(slice_port: dict[str, Any], message: str) -> None:
    read = table(endpoint_slice("10.0.0.1", ports=[slice_port]))

    assert [(p.object, p.message) for p in read.problems] == [
        ("EndpointSlice default/web-1", message)
    ]


def test_one_name_may_stand_for_different_numbers() -> None:
    """F24, R13: also for one address."""
    found = port(
        endpoint_slice("10.0.0.1", "10.0.0.2", name="s1", ports=[{"name": "", "port": 81}]),
        endpoint_slice("10.0.0.1", name="s2", ports=[{"name": "", "port": 80}]),
    )

    assert places(found) == ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:81"]
    assert found.endpoints == 3


# ---- merging


def test_duplicate_gets_no_larger_share() -> None:
    """F20, F29, R17"""
    found = port(
        endpoint_slice("10.0.0.1", "10.0.0.2", name="s1"),
        endpoint_slice("10.0.0.2", "10.0.0.3", name="s2"),
    )

    assert places(found) == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    assert found.endpoints == 3


READY = endpoint("10.0.0.1")
READY_LOCAL = endpoint("10.0.0.1", node="n1")
SERVING = endpoint("10.0.0.1", ready=False)
NOT_SERVING = endpoint("10.0.0.1", ready=False, serving=False)
TERMINATING = endpoint("10.0.0.1", ready=False, serving=True, terminating=True, node="n1")
READY_GOING_LOCAL = endpoint("10.0.0.1", ready=True, terminating=True, node="n1")
R, S, C, L, N, T = (
    BackendFlag.READY,
    BackendFlag.SERVING,
    BackendFlag.IN_CLUSTER,
    BackendFlag.IN_LOCAL,
    BackendFlag.ON_NODE,
    BackendFlag.TERMINATING,
)


@pytest.mark.parametrize(
    ("one", "other", "flags"),
    [
        (READY, READY_LOCAL, R | S | C | L | N),
        (READY, SERVING, R | S | C),
        (READY, TERMINATING, R | S | C),
        (READY_LOCAL, NOT_SERVING, R | S | C | L | N),
        (SERVING, NOT_SERVING, S),
        (SERVING, TERMINATING, S),  # non-terminating wins, and is not usable
        (NOT_SERVING, TERMINATING, None),
        (TERMINATING, TERMINATING, S | T | C | L | N),
        (READY, READY_GOING_LOCAL, R | S | C | L | N),
        (SERVING, READY_GOING_LOCAL, S),
    ],
)
def test_two_entries_for_one_place_are_resolved_whatever_their_order(
    one: dict[str, Any], other: dict[str, Any], flags: BackendFlag | None
) -> None:
    """F20, F21, R18, R21"""
    for first, second in ((one, other), (other, one)):
        found = port(endpoint_slice(first, name="s1"), endpoint_slice(second, name="s2"))

        assert [b.flags for b in found.backends] == ([] if flags is None else [flags])
        assert found.endpoints == 1


def test_only_the_first_address_is_used() -> None:
    """R19"""
    several = endpoint("10.0.0.1") | {"addresses": ["10.0.0.1", "10.0.0.2"]}

    assert places(port(endpoint_slice(several))) == ["10.0.0.1:8080"]


def test_families_have_their_own_slices() -> None:
    """F25, R20, R117"""
    slices = (
        endpoint_slice("10.0.0.1", name="s4"),
        endpoint_slice("2001:db8::1", name="s6", family="IPv6"),
        endpoint_slice("example.com", name="fqdn", family="FQDN"),
        endpoint_slice("10.0.0.2", name="odd", family="ipv4"),
    )

    assert places(table(*slices).port("", "TCP")) == ["10.0.0.1:8080"]
    assert places(table(*slices, family=6).port("", "TCP")) == ["[2001:db8::1]:8080"]
    assert table(*slices).problems == table(*slices, family=6).problems == []


def test_local_means_the_very_node_name() -> None:
    """R24"""
    members = [
        endpoint("10.0.0.1", node="n1"),
        endpoint("10.0.0.2", node="n1.example.com"),
        endpoint("10.0.0.3", node="N1"),
        endpoint("10.0.0.4"),
    ]

    assert sets(*members) == ("1 2 3 4", "1")


def test_legacy_leading_zeros_are_decimal() -> None:
    """R25: and so equal to the usual spelling."""
    found = port(endpoint_slice("10.180.00.001", "10.180.0.1"))

    assert places(found) == ["10.180.0.1:8080"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address: no Service may send traffic there"),
        ("169.254.169.254", "169.254.169.254 is the cloud metadata address:"),
        ("0.0.0.0", "0.0.0.0 is the unspecified address:"),
        ("224.0.0.1", "224.0.0.1 is a multicast address:"),
        ("10.0.0.256", "'10.0.0.256' is not an IP address: the endpoint is ignored"),
        ("١٠.0.0.1", "is not an IP address"),
        ("2001:db8::1", "2001:db8::1 is not IPv4, the slice's addressType"),
        ("::ffff:10.0.0.1", "is an IPv4-mapped IPv6 address"),
    ],
)
def test_endpoint_with_an_impossible_address_is_left_out_and_named(
    address: str, reason: str
) -> None:
    read = table(endpoint_slice("10.0.0.1", address))

    assert places(read.port("", "TCP")) == ["10.0.0.1:8080"]
    [problem] = read.problems
    assert problem.object == "EndpointSlice default/web-1"
    assert problem.message.startswith("endpoints[1].addresses[0] ")
    assert reason in problem.message
    assert not problem.is_error


@pytest.mark.parametrize(
    "address", ["::1", "fe80::1", "ff02::1", "::", "fd00:ec2::254", "::ffff:10.0.0.1", "10.0.0.1"]
)
def test_endpoint_with_an_impossible_ipv6_address_is_left_out(address: str) -> None:
    read = table(endpoint_slice("2001:db8::1", address, family="IPv6"), family=6)

    assert places(read.port("", "TCP")) == ["[2001:db8::1]:8080"]
    assert len(read.problems) == 1


def test_denied_endpoint_counts_but_decides_nothing() -> None:
    """A denied Ready endpoint must not keep the terminating ones out (R28) nor hints away (R71)."""
    fallback = endpoint("10.0.0.1", ready=False, terminating=True)

    found = port(endpoint_slice(fallback, "127.0.0.1"))

    assert hosts(found, BackendFlag.IN_CLUSTER) == "1"
    assert found.endpoints == 2


# ---- conditions

USABILITY = [
    # ready, serving, terminating → flags of a lone local endpoint, None: not even serving (§2.2)
    (None, None, None, R | S | C | L | N),
    (True, None, None, R | S | C | L | N),
    (True, False, None, R | S | C | L | N),  # R27: Ready counts whatever the others say
    (True, True, True, R | S | C | L | N | T),  # publishNotReadyAddresses
    (None, False, True, R | S | C | L | N | T),
    (False, None, True, S | C | L | N | T),
    (False, True, True, S | C | L | N | T),
    (False, False, True, None),
    (False, None, None, S | N),  # R30, but an existing flow stays (R110)
    (False, True, False, S | N),
    (False, False, None, None),
    (False, False, False, None),
]


@pytest.mark.parametrize(("ready", "serving", "terminating", "flags"), USABILITY)
def test_conditions_decide_usability(
    ready: bool | None, serving: bool | None, terminating: bool | None, flags: BackendFlag | None
) -> None:
    """F23, R26, R27, R30, R31, R110"""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}

    found = port(endpoint_slice(endpoint("10.0.0.1", node="n1", **conditions)))

    assert [b.flags for b in found.backends] == ([] if flags is None else [flags])
    assert found.endpoints == 1


GOING = {"ready": False, "serving": True, "terminating": True}


def test_terminating_endpoints_are_used_only_while_nobody_is_ready() -> None:
    """F23, R28"""
    going = endpoint("10.0.0.1", **GOING)
    unready = endpoint("10.0.0.3", ready=False)

    assert sets(going, endpoint("10.0.0.2"), unready) == ("2", "")
    assert sets(going, unready) == ("1", "")
    assert sets(unready) == ("", "")


def test_local_set_falls_back_though_ready_endpoints_exist_elsewhere() -> None:
    """F23, R29"""
    going_here = endpoint("10.0.0.1", node="n1", **GOING)
    ready_elsewhere = endpoint("10.0.0.2", node="n2")

    assert sets(going_here, ready_elsewhere) == ("2", "1")


# ---- topology

HERE = {"nodes": ["n1"], "zones": ["z1"]}
THERE = {"nodes": ["n2"], "zones": ["z1"]}
ELSEWHERE = {"nodes": ["n3"], "zones": ["z2"]}

TOPOLOGY = [
    ("R69 same node", [HERE, THERE, ELSEWHERE], "1"),
    ("R70 no endpoint for this node: same zone", [THERE, ELSEWHERE], "1"),
    ("R70 one without node hint: same zone", [HERE, {"zones": ["z1"]}, ELSEWHERE], "1 2"),
    ("R70 zones only", [{"zones": ["z1"]}, {"zones": ["z2"]}], "1"),
    ("R71 one without any hint", [HERE, THERE, {}], "1 2 3"),
    ("R71 nobody for this zone", [{"zones": ["z2"]}, {"zones": ["z3"]}], "1 2"),
    ("R71 empty hint lists are none", [{"zones": []}, {"zones": ["z1"]}], "1 2"),
    ("R72 unready without hint does not matter", [HERE, THERE, {"ready": False}], "1"),
    ("R72 hinted ones unready", [{"zones": ["z1"], "ready": False}, {"zones": ["z2"]}], "2"),
    ("R73 any match suffices", [{"zones": ["z2", "z1"]}, {"zones": ["z2"]}], "1"),
    ("R74 fallback ignores hints", [{"zones": ["z2"], **GOING}, {"zones": ["z1"], **GOING}], "1 2"),
]


@pytest.mark.parametrize(
    ("members", "cluster"), [t[1:] for t in TOPOLOGY], ids=[t[0] for t in TOPOLOGY]
)
def test_hints_reduce_the_cluster_set(members: list[dict[str, Any]], cluster: str) -> None:
    numbered = [endpoint(f"10.0.0.{i}", **fields) for i, fields in enumerate(members, start=1)]

    assert sets(*numbered)[0] == cluster


def test_node_without_zone_ignores_zone_hints() -> None:
    """R71, R75: and obeys them as soon as it has one."""
    members = [endpoint("10.0.0.1", zones=["z1"]), endpoint("10.0.0.2", zones=["z2"])]

    assert sets(*members, node=NodeView(name="n1"))[0] == "1 2"
    assert sets(*members, node=NodeView(name="n1", zone="z2"))[0] == "2"


def test_hints_never_touch_the_local_set() -> None:
    """R74"""
    here = endpoint("10.0.0.1", node="n1", zones=["z2"])
    there = endpoint("10.0.0.2", node="n2", zones=["z1"])

    assert sets(here, there) == ("2", "1")


# ---- properties

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.00.0.2", "127.0.0.1", "fe80::1", "2001:db8::1", "x", "::1"]
TRISTATE = st.sampled_from([None, True, False])


@st.composite
def members(draw: st.DrawFn, plain: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"node": draw(st.sampled_from([None, "n1", "n2"]))}
    if plain:
        return endpoint(f"10.0.0.{draw(st.integers(1, 30))}", **fields)
    fields |= {k: draw(TRISTATE) for k in ("ready", "serving", "terminating")}
    if draw(st.booleans()):
        fields["zones"] = draw(st.lists(st.sampled_from(["z1", "z2"]), max_size=2))
        fields["nodes"] = draw(st.lists(st.sampled_from(["n1", "n2"]), max_size=2))
    return endpoint(draw(st.sampled_from(ADDRESSES)), **fields)


def ports(numbers: list[int | None]) -> st.SearchStrategy[list[dict[str, Any]]]:
    one = st.fixed_dictionaries(
        {
            "name": st.sampled_from([None, "", "http"]),
            "port": st.sampled_from(numbers),
            "protocol": st.sampled_from([None, "TCP", "UDP"]),
        }
    )
    return st.lists(one, min_size=1, max_size=3)


@st.composite
def slice_lists(draw: st.DrawFn) -> list[EndpointSlice]:
    """Half of the lists are such that the plain way has something to say."""
    plain = draw(st.booleans())
    families = ["IPv4"] if plain else ["IPv4", "IPv4", "IPv6", "FQDN"]
    return [
        endpoint_slice(
            *draw(st.lists(members(plain), max_size=5)),
            name=f"s{i}",
            family=draw(st.sampled_from(families)),
            ports=draw(ports([80, 81] if plain else [80, 81, None, 0, 65536])),
        )
        for i in range(draw(st.integers(1, 3)))
    ]


ASKED = list(itertools.product(["", "http"], ["TCP", "UDP"]))


@given(slice_lists(), st.sampled_from([4, 6]))
def test_plain_and_general_way_agree(slices: list[EndpointSlice], family: int) -> None:
    usual = EndpointTable(slices, family=family, node=NODE)
    mine = [item for item in slices if item.addressType == f"IPv{family}"]
    problems: list[Any] = []
    general = module._read_all(mine, family, NODE, problems)

    for name, protocol in ASKED:
        assert usual.port(name, protocol) == module._join(general, name, protocol, NODE)
    assert usual.problems == problems


@given(slice_lists(), st.randoms(use_true_random=False))
def test_order_of_slices_and_endpoints_does_not_matter(
    slices: list[EndpointSlice], random: Any
) -> None:
    """R7, R21, R23"""
    shuffled = []
    for item in slices:
        endpoints = list(item.endpoints or ())
        random.shuffle(endpoints)
        shuffled.append(
            EndpointSlice(
                metadata=item.metadata,
                addressType=item.addressType,
                endpoints=endpoints,
                ports=item.ports,
            )
        )
    random.shuffle(shuffled)

    for name, protocol in ASKED:
        assert table(*slices).port(name, protocol) == table(*shuffled).port(name, protocol)


@given(slice_lists())
def test_every_backend_is_sorted_unique_allowed_and_consistently_flagged(
    slices: list[EndpointSlice],
) -> None:
    """R28–R31: somebody is in the Cluster set exactly if somebody is usable."""
    for name, protocol in ASKED:
        found = table(*slices).port(name, protocol)
        keys = [(b.address, b.port) for b in found.backends]
        usable = [b for b in found.backends if b.flags & R or b.flags & T]

        assert keys == sorted(set(keys))
        assert len(keys) <= found.endpoints
        assert parse_address("127.0.0.1") not in [b.address for b in found.backends]
        assert all(b.flags & S for b in found.backends)
        assert all(b.flags & N for b in found.backends if b.flags & L)
        assert all(b in usable for b in found.backends if b.flags & (C | L))
        assert any(b.flags & C for b in found.backends) == bool(usable)


def test_thousands_of_endpoints_in_several_slices_are_all_there() -> None:
    """F22, R132"""
    slices = [
        endpoint_slice(
            *(f"10.1.{s * 4 + i // 250}.{i % 250 + 1}" for i in range(1000)), name=f"s{s}"
        )
        for s in range(3)
    ]

    assert len(port(*slices).backends) == 3000
