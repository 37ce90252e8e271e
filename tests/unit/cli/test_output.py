# SPDX-License-Identifier: Apache-2.0
"""Tables for programs are plain, complete and aligned; documents are what was given."""

from __future__ import annotations

import json

import pytest
import yaml
from msgspec import Struct

from vipbee.cli.output import Column, Format, print_document, print_table, say, working

COLUMNS = (Column("NAME"), Column("COUNT", is_number=True), Column("MORE", is_wide=True))
ROWS = [("web", "7", "x"), ("a-much-longer-name" * 20, "1234", "y")]


class Example(Struct, rename="camel"):
    two_words: str
    number: int


def test_piped_table_is_aligned_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS, Format.TABLE)

    width = len(ROWS[1][0])
    assert capsys.readouterr().out.splitlines() == [
        f"{'NAME':<{width}}  COUNT",
        f"{'web':<{width}}      7",
        f"{ROWS[1][0]}   1234",
    ]


def test_wide_table_has_the_wide_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS[:1], Format.WIDE)

    assert capsys.readouterr().out == "NAME  COUNT  MORE\nweb       7  x\n"


@pytest.fixture
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vipbee.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")


@pytest.mark.usefixtures("narrow_terminal")
def test_no_cell_is_folded_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """An address in two halves can be neither read nor copied."""
    address = "[fd00:10:244:1::2]:8080"
    row = (f"{address}\n10.244.1.2:8080", address, address)

    print_table((Column("BACKENDS"), Column("CLIENT"), Column("FRONTEND")), [row])

    assert capsys.readouterr().out.splitlines() == [
        "BACKENDS                 CLIENT                   FRONTEND",
        f"{address}  {address}  {address}",
        "10.244.1.2:8080",
    ]


@pytest.mark.usefixtures("narrow_terminal")
def test_sentences_are_wrapped_where_the_other_columns_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = (Column("PROBLEM"), Column("MESSAGE", is_sentence=True))

    print_table(columns, [("error", "spec.clusterIP '10.96.1.999' is not an IP address at all")])

    assert capsys.readouterr().out.splitlines() == [
        "PROBLEM  MESSAGE",
        "error    spec.clusterIP '10.96.1.999' is not an IP address",
        "         at all",
    ]


def test_an_empty_table_is_a_sentence_for_people_and_a_header_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_table((Column("LAB"),), [], nothing="no lab is up")
    piped = capsys.readouterr().out
    monkeypatch.setattr("vipbee.cli.output.is_terminal", lambda: True)
    print_table((Column("LAB"),), [], nothing="no lab is up")

    assert (piped, capsys.readouterr().out) == ("LAB\n", "no lab is up\n")


def test_piped_output_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    with working("Working …"):
        print_table((Column("STATE"),), [("active",)])
        say("warning", style="yellow")

    printed = capsys.readouterr()
    assert "\x1b" not in printed.out
    assert printed.err == ""


def test_json_and_yaml_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = [Example("über", 1)]

    print_document(value, Format.JSON)
    from_json = json.loads(capsys.readouterr().out)
    print_document(value, Format.YAML)
    from_yaml = yaml.safe_load(capsys.readouterr().out)

    assert from_json == from_yaml == [{"twoWords": "über", "number": 1}]
