# SPDX-License-Identifier: Apache-2.0
"""What holds for every list of slices: R7, R21, R23, R28–R31, R132."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.endpoint_tables import NODE, C, L, N, R, S, T, port, table
from tests.support.services import endpoint, endpoint_slice
from vipbee.address import parse_address
from vipbee.core import endpoints as module
from vipbee.core.endpoints import EndpointTable
from vipbee.model import EndpointSlice

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
