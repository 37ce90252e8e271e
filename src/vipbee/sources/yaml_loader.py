# SPDX-License-Identifier: Apache-2.0
"""Strict, fast YAML: a stream of documents as plain Python values.

Built straight from libyaml's events, without a node graph and without a recursive
constructor: three times faster than `yaml.load(…, CSafeLoader)` and, as list items
of named sections are handed out one by one, with one item in memory at a time.

Stricter than YAML where leniency changes what the author meant:

- A key given twice is an error; so are anchors, aliases (bombs), tags, and keys
  that are not scalars.
- Only `true false null ~` (and their Capitalised and UPPER forms), the empty value,
  decimal integers without leading zeros, and decimal fractions are not strings.
  `yes`, `010`, `0x50`, `1_000`, `1e3`, `12:30` and dates stay strings, so that the
  typed decoder reports them instead of a number nobody wrote (F32).
- Mapping keys are always strings, as in JSON.

Must not know Kubernetes. Raises SourceError only, "FILE line N: reason".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from vipbee.errors import SourceError

MAX_DEPTH = 64
"""Nesting refused beyond this; Kubernetes' deepest field here sits at 8."""

_CONSTANTS: dict[str, bool | None] = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "null": None,
    "Null": None,
    "NULL": None,
    "~": None,
    "": None,
}
# At most 18 digits: no int() on text of unbounded length, and always within 64 bits.
_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}", re.ASCII)
_NUMBER_START = frozenset("-0123456789")
_STRING_TAGS = frozenset(("!", "tag:yaml.org,2002:str"))
_MISSING = object()


class YamlItem(NamedTuple):
    """One item of a list directly under a section key of a document's mapping."""

    section: str
    value: Any
    line: int  # counts from 1


class YamlDocument(NamedTuple):
    """A complete document. Lists of sections hold only their scalar items."""

    value: Any
    line: int


def load_stream(
    data: bytes, *, source: str, sections: Collection[str] = ()
) -> Iterator[YamlItem | YamlDocument]:
    """Yield the documents of `data`, each after the items of its sections.

    `data` is UTF-8, with or without byte order mark, any line ends. Documents that
    are empty are left out. `source` is the name used in errors.
    """
    parser = CParser(_checked(data, source))
    try:
        yield from _Builder(parser, source=source, sections=frozenset(sections)).documents()
    except yaml.MarkedYAMLError as error:
        raise SourceError(f"{source} {_place_and_reason(error, data)}") from None
    except yaml.reader.ReaderError as error:
        line = line_of(data, error.position)
        raise SourceError(f"{source} line {line}: {error.reason}") from None


def load_document(data: bytes, *, source: str) -> Any:
    """Return the value of the only document of `data`; None if there is none."""
    documents = list(load_stream(data, source=source))
    if len(documents) > 1:
        raise SourceError(f"{source} line {documents[1].line}: more than one document")
    return documents[0].value if documents else None


def line_of(data: bytes, offset: int) -> int:
    """Line, counted from 1, of a byte of `data`."""
    return data.count(b"\n", 0, offset) + 1


def _place_and_reason(error: yaml.MarkedYAMLError, data: bytes) -> str:
    """libyaml's words: "line 9: did not find …, while scanning a quoted scalar from line 2"."""
    last = line_of(data, len(data.rstrip()))  # libyaml names the line after the end
    line = min(getattr(error.problem_mark or error.context_mark, "line", 0) + 1, last)
    if not error.problem or not error.context:
        return f"line {line}: {error.problem or error.context}"
    start = getattr(error.context_mark, "line", line - 1) + 1
    since = f" from line {start}" if start != line else ""
    return f"line {line}: {error.problem}, {error.context}{since}"


def _checked(data: bytes, source: str) -> bytes:
    """`data` without byte order mark; refuse what libyaml would guess about."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{source} line 1: the file is UTF-16: save it as UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        raise SourceError(f"{source} line {line_of(data, nul)}: NUL byte")
    return data.removeprefix(b"\xef\xbb\xbf")


class _Builder:
    """Turns events into values, with an explicit stack instead of recursion."""

    def __init__(self, parser: CParser, *, source: str, sections: frozenset[str]) -> None:
        # Any: the stubs say Event, but each kind has its own members.
        self._next_event: Callable[[], Any] = parser.get_event
        self._source = source
        self._sections = sections

    def documents(self) -> Iterator[YamlItem | YamlDocument]:
        while True:
            event = self._next_event()
            kind: type = type(event)
            if event is None or kind is StreamEndEvent:
                return
            if kind is DocumentStartEvent:
                root: list[Any] = []
                line = event.start_mark.line + 1
                yield from self._document(root)
                if root and root[0] is not None:
                    yield YamlDocument(root[0], line)

    def _document(self, root: list[Any]) -> Iterator[YamlItem]:
        """Append the document's value to `root`; yield items of sections on the way."""
        next_event = self._next_event
        constants = _CONSTANTS
        # Open containers, outermost first, each with the key it waits to be stored under
        # and the line it starts on; `node` and `key` are the innermost, kept apart for speed.
        stack: list[tuple[Any, str | None, int]] = []
        node: Any = root
        key: str | None = None
        line = 0
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                text = event.value
                if event.anchor is not None or event.tag is not None:
                    self._refuse_marks(event)
                if type(node) is dict:
                    if key is None:
                        if text in node:
                            raise self._error(event, f"key {text!r} is given twice")
                        key = text
                        continue
                    node[key] = self._scalar(text, constants) if event.implicit[0] else text
                    key = None
                else:
                    node.append(self._scalar(text, constants) if event.implicit[0] else text)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                if type(node) is dict and key is None:
                    raise self._error(event, "a key must be a single value")
                if event.anchor is not None or event.tag is not None:
                    self._refuse_marks(event)
                if len(stack) == MAX_DEPTH:
                    raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
                stack.append((node, key, line))
                node = {} if kind is MappingStartEvent else []
                key = None
                line = event.start_mark.line + 1
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                value, value_line = node, line
                node, key, line = stack.pop()
                if type(node) is dict:
                    node[key] = value
                    key = None
                elif len(stack) == 2 and (section := stack[1][1]) in self._sections:
                    yield YamlItem(str(section), value, value_line)
                else:
                    node.append(value)
            elif kind is DocumentEndEvent:
                return
            elif kind is AliasEvent:
                raise self._error(event, f"alias *{event.anchor} is not accepted")

    @staticmethod
    def _scalar(text: str, constants: dict[str, bool | None]) -> Any:
        """Value of a plain scalar."""
        value = constants.get(text, _MISSING)
        if value is not _MISSING:
            return value
        if text[0] in _NUMBER_START:
            if _INT.fullmatch(text):
                return int(text)
            if _FLOAT.fullmatch(text):
                return float(text)
        return text

    def _refuse_marks(self, event: Any) -> None:
        if event.anchor is not None:
            raise self._error(event, f"anchor &{event.anchor} is not accepted")
        if type(event) is not ScalarEvent or event.tag not in _STRING_TAGS:
            raise self._error(event, f"tag {event.tag} is not accepted")

    def _error(self, event: Any, reason: str) -> SourceError:
        return SourceError(f"{self._source} line {event.start_mark.line + 1}: {reason}")
