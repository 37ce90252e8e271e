# SPDX-License-Identifier: Apache-2.0
"""Strict YAML: what is accepted, what a scalar becomes, which line an error names (F31, F32)."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vipbee.errors import SourceError
from vipbee.sources.yaml_loader import (
    MAX_DEPTH,
    YamlDocument,
    YamlItem,
    load_document,
    load_stream,
)


def load(text: str | bytes) -> object:
    return load_document(text.encode() if isinstance(text, str) else text, source="F")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", 80),
        ("-1", -1),
        ("0", 0),
        ("8.5", 8.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # F32: each of these is a number or a boolean to some YAML parser
        ("010", "010"),
        ("0x50", "0x50"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        ("12:30", "12:30"),
        ("+80", "+80"),
        (".5", ".5"),
        (".inf", ".inf"),
        ("yes", "yes"),
        ("off", "off"),
        ("2024-01-01", "2024-01-01"),
        ("２４", "２４"),
        ("٨٠", "٨٠"),
        ("9" * 5000, "9" * 5000),
        ("'80'", "80"),
        ('"true"', "true"),
        ("!!str 80", "80"),
    ],
)
def test_only_core_scalars_are_not_strings(text: str, expected: object) -> None:
    document = load(f"value: {text}\n")

    assert document == {"value": expected}
    assert type(document["value"]) is type(expected)  # type: ignore[index]


def test_keys_are_strings_as_in_json() -> None:
    assert load("80: a\ntrue: b\n~: c\n") == {"80": "a", "true": "b", "~": "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "F line 3: key 'a' is given twice"),
        ("x:\n  a: 1\n  'a': 2\n", "F line 3: key 'a' is given twice"),
        ("a: &x 1\nb: 2\n", "F line 1: anchor &x is not accepted"),
        ("a: 1\nb: *x\n", "F line 2: alias .x is not accepted"),
        ("a: &x {b: 1}\n", "F line 1: anchor &x is not accepted"),
        ("a: 1\nb: !!python/name:os.system x\n", "F line 2: tag .* is not accepted"),
        ("a: !!set {b}\n", "F line 1: tag .* is not accepted"),
        ("a:\n\tb: 1\n", "F line 2: .*cannot start any token"),
        ("a: 1\n b: 2\n", "F line 2: mapping values are not allowed"),
        ("ok: 1\nbad: [1, 2\n", "F line 2: did not find expected"),
        ("bad: 'open\nx: 1\n", "F line 2: .*quoted scalar from line 1"),
        ("[a]: 1\n", "F line 1: a key must be a single value"),
        ("a: 1\nb: \x01\n", "F line 2: control characters"),
        (b"a: 1\nb: \xff\n", "F line 2: invalid .*UTF-8"),
        (b"a: 1\n\nb: \0\n", "F line 3: NUL byte"),
        (b"\xff\xfea\0:\0 \x001\0", "F line 1: the file is UTF-16"),
        ("a: 1\n---\nb: 2\n", "F line 2: more than one document"),
    ],
)
def test_an_error_names_file_line_and_reason(text: str | bytes, message: str) -> None:
    """F31."""
    with pytest.raises(SourceError, match=message):
        load(text)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    """F31."""
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 64)
    )

    with pytest.raises(SourceError, match="F line 1: anchor &a0"):
        load(bomb)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_an_error_and_not_a_recursion(opening: str) -> None:
    """F70."""
    with pytest.raises(SourceError, match=f"F line 1: nested deeper than {MAX_DEPTH} levels"):
        load(opening * 100_000)


def test_nesting_up_to_the_limit_is_accepted() -> None:
    value = load("[" * MAX_DEPTH + "]" * MAX_DEPTH)

    depth = 0
    while value:
        value, depth = value[0], depth + 1  # type: ignore[index]
    assert depth == MAX_DEPTH - 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_any_line_end_are_accepted(end: str) -> None:
    """F31."""
    assert load(f"\ufeffa: 1{end}b: [x]{end}") == {"a": 1, "b": ["x"]}


def test_empty_documents_of_a_stream_are_left_out() -> None:
    parts = list(load_stream(b"---\n# nothing\n---\na: 1\n---\n---\nb: 2\n", source="F"))

    assert parts == [YamlDocument({"a": 1}, 3), YamlDocument({"b": 2}, 6)]


def test_items_of_a_section_come_one_by_one_before_their_document() -> None:
    text = b"items:\n- a: {items: [{x: 1}]}\n- [2]\n- three\nother:\n- b: 1\n"

    parts = list(load_stream(text, source="F", sections=("items",)))

    assert parts == [
        YamlItem("items", {"a": {"items": [{"x": 1}]}}, 2),
        YamlItem("items", [2], 3),
        YamlDocument({"items": ["three"], "other": [{"b": 1}]}, 1),
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(json_values.filter(lambda value: value is not None))
def test_what_pyyaml_writes_is_read_back(value: object) -> None:
    """Without aliases, as kubectl writes it; strings that look like numbers are quoted."""

    class NoAliases(yaml.CSafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    text = yaml.dump(value, Dumper=NoAliases, allow_unicode=True)

    assert load(text) == value
