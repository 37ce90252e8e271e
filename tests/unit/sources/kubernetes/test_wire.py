# SPDX-License-Identifier: Apache-2.0
"""Bytes cut and decoded: F10, F15, F33; nothing a server sends may end the process."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipbee.sources.events import ObjectName
from vipbee.sources.kubernetes.api_errors import Gone, Malformed, Refused
from vipbee.sources.kubernetes.resources import ENDPOINT_SLICES, SERVICES
from vipbee.sources.kubernetes.wire import (
    LineSplitter,
    decode_events,
    decode_page,
    decode_status,
)


def event(kind: str, **meta: object) -> bytes:
    item = {"metadata": {"name": "a", "resourceVersion": "7", **meta}, "spec": {}}
    return json.dumps({"type": kind, "object": item}).encode()


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_are_the_same_however_the_stream_is_cut(parts: list[bytes], size: int) -> None:
    """F15."""
    stream = b"\n".join(parts)
    splitter = LineSplitter()

    lines = []
    for at in range(0, len(stream), size):
        lines += splitter.feed(stream[at : at + size])

    *complete, rest = stream.split(b"\n")
    assert lines == [line for line in complete if line.strip()]
    assert splitter.held == len(rest)


def test_line_without_end_is_given_up() -> None:
    """F15, F34: memory is bounded."""
    splitter = LineSplitter(max_bytes=100)
    splitter.feed(b"x" * 100)

    with pytest.raises(Malformed):
        splitter.feed(b"x")


@given(st.binary() | st.text().map(str.encode) | st.from_type(dict).map(repr).map(str.encode))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    """F15."""
    for resource in (SERVICES, ENDPOINT_SLICES):
        with pytest.raises(Malformed):
            decode_page(resource, data)
        batch, failure = decode_events(resource, [data])
        assert batch.objects == {}
        assert isinstance(failure, Malformed)
    assert isinstance(decode_status(500, data, what="x"), Refused)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "", "?"]))
def test_any_object_in_an_event_is_taken_or_refused(item: object, kind: str) -> None:
    """F10, F15, F33."""
    line = json.dumps({"type": kind, "object": item}).encode()

    _, failure = decode_events(SERVICES, [line])

    assert failure is None or isinstance(failure, Malformed | Refused)


@given(JSON)
def test_any_spec_costs_at_most_its_own_object(spec: object) -> None:
    """F33, F34."""
    items = [{"metadata": {"name": "odd"}, "spec": spec}, {"metadata": {"name": "ok"}, "spec": {}}]
    body = json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()

    page = decode_page(SERVICES, body)

    assert ObjectName("Service", "default", "ok") in page.objects
    assert len(page.objects) + len(page.broken) == 2


def test_last_word_on_an_object_counts() -> None:
    """F10: within one batch."""
    lines = [event("ADDED"), event("DELETED"), event("ADDED", uid="new", resourceVersion="9")]

    batch, failure = decode_events(SERVICES, lines)

    [found] = batch.objects.values()
    assert found is not None
    assert (found.metadata.uid, batch.resource_version, failure) == ("new", "9", None)


def test_what_came_before_the_error_counts() -> None:
    """F5, F15: events before a 410 or a broken line are not thrown away."""
    gone = b'{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}'

    batch, failure = decode_events(SERVICES, [event("ADDED"), gone, event("DELETED")])

    assert list(batch.objects) == [ObjectName("Service", "default", "a")]
    assert batch.resource_version == "7"
    assert isinstance(failure, Gone)


def test_version_is_the_lists_and_must_be_there() -> None:
    """F5, F8: an item's version never stands in for it."""
    item = {"metadata": {"name": "a", "resourceVersion": "5"}, "spec": {}}

    with pytest.raises(Malformed, match="resourceVersion"):
        decode_page(SERVICES, json.dumps({"metadata": {}, "items": [item]}).encode())
