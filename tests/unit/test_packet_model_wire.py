# SPDX-License-Identifier: Apache-2.0
"""The model's parser and rewrite against Scapy, which computes every checksum afresh."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.packet_model.generate import PAYLOAD, Segment, fragments, truncations
from tests.support.packet_model.lab import BY_FAMILY
from tests.support.packet_model.rewrite import rewritten
from tests.support.packet_model.wire import TCP, UDP, Broken, Endpoint, Packet, parse
from tests.support.packet_model.world import packed


def endpoints(size: int) -> st.SearchStrategy[Endpoint]:
    return st.builds(Endpoint, st.binary(min_size=size, max_size=size), st.integers(1, 65535))


def segments(size: int) -> st.SearchStrategy[Segment]:
    return st.builds(
        Segment,
        source=endpoints(size),
        destination=endpoints(size),
        protocol=st.sampled_from([TCP, UDP]),
        flags=st.sampled_from(["S", "SA", "A", "PA", "FA", "R"]),
        sequence=st.integers(0, 2**32 - 1),
        payload=st.binary(max_size=200),
        ttl=st.integers(2, 255),
    )


@given(data=st.data(), size=st.sampled_from([4, 16]))
def test_the_rewrite_gives_what_scapy_would_have_made(data: st.DataObject, size: int) -> None:
    """D32-D38: addresses, ports and TTL changed; every checksum as if computed afresh."""
    before = data.draw(segments(size))
    source, destination = data.draw(endpoints(size)), data.draw(endpoints(size))
    packet = parse(before.frame())
    assert isinstance(packet, Packet)

    after = rewritten(packet, source=source, destination=destination, ttl_spent=1)

    expected = replace(before, source=source, destination=destination, ttl=before.ttl - 1)
    assert after == expected.frame()


@given(data=st.data(), size=st.sampled_from([4, 16]), wrong=st.integers(1, 0xFFFE))
def test_a_wrong_checksum_stays_exactly_as_wrong(
    data: st.DataObject, size: int, wrong: int
) -> None:
    """D35: there and back again gives the packet as it came."""
    before = data.draw(segments(size))
    packet = parse(before.frame())
    assert isinstance(packet, Packet)
    at = packet.l4 + (16 if before.protocol == TCP else 6)
    frame = packet.frame[:at] + wrong.to_bytes(2) + packet.frame[at + 2 :]
    broken = replace(packet, frame=frame)

    there = parse(rewritten(broken, destination=data.draw(endpoints(size))))
    assert isinstance(there, Packet)

    assert rewritten(there, destination=packet.dialled) == frame


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_every_prefix_is_recognised_as_cut(family: int, protocol: int) -> None:
    """D1-D7, D16"""
    where = BY_FAMILY[family]
    segment = Segment(
        Endpoint(packed(where.client), 4000), Endpoint(packed(where.lb(10)), 80), protocol
    )

    for cut in truncations(segment.frame()):
        assert isinstance(parse(cut), Broken)


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_show_their_place_and_only_the_first_its_ports(family: int) -> None:
    """D21, D28"""
    where = BY_FAMILY[family]
    segment = Segment(Endpoint(packed(where.client), 4000), Endpoint(packed(where.lb(10)), 53), UDP)

    first, last = map(parse, fragments(segment, 24))

    assert isinstance(first, Packet)
    assert isinstance(last, Packet)
    assert (first.client, first.dialled) == (segment.source, segment.destination)
    assert last.is_later_fragment
    assert last.source_port == last.destination_port == 0
    shown = first.frame[first.l4 + 8 : first.end] + last.frame[last.l4 : last.end]
    assert shown == PAYLOAD
