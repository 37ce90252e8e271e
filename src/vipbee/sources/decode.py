# SPDX-License-Identifier: Apache-2.0
"""Bytes of a state file → typed objects, and problems by object name.

Accepted (interface.md §3): a mapping with `services:`, `endpoints:`, `nodes:`; a
`kind: List` (in JSON also `ServiceList` etc.); a single object; a stream of `---` documents of
any of these. JSON is recognised by its first byte.

One invalid object never takes others with it. For that, JSON is cut into raw
objects first and each is decoded straight to its Struct: 0.1 s more than one pass at
10,000 Services × 10 endpoints (0.27 against 0.17), and no second code path for the bad day.

Types are checked here, values (port ranges, protocols, addresses) by core.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import msgspec
from msgspec import Raw

from vipbee.collection import collection_paused
from vipbee.errors import SourceError
from vipbee.sources.collect import JSON, SECTIONS, YAML, Collector, Decoded
from vipbee.sources.yaml_loader import YamlDocument, YamlItem, line_of, load_stream

__all__ = ["Decoded", "decode_objects"]

_GC_PAUSE_BYTES = 1 << 20
# Up to this size somebody may have written the JSON by hand: second looks are affordable.
_HANDWRITTEN_BYTES = 1 << 20
_BYTE_OFFSET = re.compile(r" \(byte ([0-9]+)\)$")


def decode_objects(
    data: bytes, *, source: str, should_stop: Callable[[], bool] = lambda: False
) -> Decoded:
    """Decode a whole file; raise SourceError ("FILE line N: reason") if it is none.

    Of objects given twice the first counts. Blank data is an error, as it is what a
    file looks like between being opened and being written; `services: []` is valid.
    `should_stop` is asked between objects and ends the work with SourceError.
    """
    content = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not content:
        raise SourceError(f"{source} is empty: to have no Services write `services: []`")
    collector = Collector(source, should_stop)
    with collection_paused(if_needed=len(data) >= _GC_PAUSE_BYTES):
        if content[:1] in (b"{", b"["):
            _decode_json(data, collector)
        else:
            _decode_yaml(data, collector)
    return collector.decoded()


def _decode_json(data: bytes, collector: Collector) -> None:
    source = collector.source
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        # Cutting the document into raw parts reads all of it, so from there on every
        # error concerns one object; an error of syntax shows before anything is added.
        collector.add_document(Raw(data), JSON, line=1)
    except msgspec.DecodeError as error:
        if len(data) <= _HANDWRITTEN_BYTES and _is_yaml(data, collector):
            return
        raise SourceError(_json_error(data, error, source)) from None
    except RecursionError:
        raise SourceError(f"{source}: malformed JSON: nested too deeply") from None
    except UnicodeDecodeError:  # in a key of the document; elsewhere it costs one object
        raise SourceError(f"{source} line 1: the document is not valid UTF-8") from None
    if len(data) <= _HANDWRITTEN_BYTES:
        _refuse_duplicate_keys(data, source)


def _refuse_duplicate_keys(data: bytes, source: str) -> None:
    """Raise SourceError if a key is given twice; msgspec would take the last. `data` is JSON."""

    def check(pairs: list[tuple[str, object]]) -> None:
        if len(dict(pairs)) == len(pairs):
            return
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SourceError(f"{source}: key {twice!a} is given twice in one object")

    try:
        # Numbers stay text: int() refuses thousands of digits with an error of its own.
        text = data.decode(errors="replace")
        json.loads(text, object_pairs_hook=check, parse_int=str, parse_float=str)
    except RecursionError:
        raise SourceError(f"{source}: malformed JSON: nested too deeply") from None


def _json_error(data: bytes, error: msgspec.DecodeError, source: str) -> str:
    """msgspec's message with the line in place of the byte."""
    match = _BYTE_OFFSET.search(str(error))
    if match is None:  # msgspec says "truncated" of a lone \\ud800, too
        line = line_of(data, len(data.rstrip()))
        return f"{source} line {line}: JSON ends too early, or has half of a surrogate pair"
    reason = _BYTE_OFFSET.sub("", str(error)).removeprefix("JSON is malformed: ")
    return f"{source} line {line_of(data, int(match[1]))}: malformed JSON: {reason}"


def _is_yaml(data: bytes, collector: Collector) -> bool:
    """Take `data` as YAML in flow style, or as JSON documents between `---`."""
    attempt = Collector(collector.source, collector.should_stop)
    try:
        _decode_yaml(data, attempt)
    except SourceError:
        return False
    collector.adopt(attempt)
    return True


def _decode_yaml(data: bytes, collector: Collector) -> None:
    """Try the frugal way; a stream of single objects may need its documents whole."""
    attempt = Collector(collector.source, collector.should_stop)
    if not _decode_items(data, attempt):
        attempt = Collector(collector.source, collector.should_stop)
        for part in load_stream(data, source=collector.source):
            assert isinstance(part, YamlDocument)
            attempt.add_document(part.value, YAML, line=part.line)
    if not attempt.has_document:
        raise SourceError(
            f"{collector.source} has no content: to have no Services write `services: []`"
        )
    collector.adopt(attempt)


def _decode_items(data: bytes, collector: Collector) -> bool:
    """Turn items into Structs as they come, so that no tree of dicts builds up.

    They arrive before the document they belong to is known to be one of our lists; False
    if it was a single object that has such a field itself (`endpoints` of a slice).
    """
    pending = Collector(collector.source, collector.should_stop)
    has_items = False
    for part in load_stream(data, source=collector.source, sections=(*SECTIONS, "items")):
        if isinstance(part, YamlItem):
            pending.add(part.section, part.value, YAML, kind=SECTIONS.get(part.section))
            has_items = True
            continue
        if collector.add_document(part.value, YAML, line=part.line):
            collector.adopt(pending)
        elif has_items:
            return False
        pending = Collector(collector.source, collector.should_stop)
        has_items = False
    return True
