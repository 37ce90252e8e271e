# SPDX-License-Identifier: Apache-2.0
"""How commands print: `-o table|wide|json|yaml`, tables for people, lines for programs.

Aligned columns, nothing cut and no cell folded: on a terminal that is too narrow lines run
over, as with kubectl, so an address stays one word to copy. For a person there are colours,
cells may have several lines, and sentences are wrapped; anywhere else, and when very long,
a row is one line. Data goes to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import zip_longest
from typing import Annotated, Any, NamedTuple

import typer

_READ_ROWS = 500  # beyond this nobody reads, and people wait for the colours
_MIN_SENTENCE = 40  # columns; narrower than this, wrapping helps nobody
_GAP = "  "


class Format(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_document(self) -> bool:
        return self in (Format.JSON, Format.YAML)


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="How to print it.")]


class Column(NamedTuple):
    header: str
    is_number: bool = False
    is_wide: bool = False  # only with -o wide
    is_sentence: bool = False  # wrapped at words for a person


STYLES = {
    "active": "green",
    "attached": "green",
    "error": "bold red",
    "falls back": "yellow",
    "missing": "bold red",
    "not attached": "bold red",
    "not selected": "dim",
    "ok": "green",
    "running": "bold green",
    "terminating": "yellow",
    "warning": "yellow",
}
"""Words that have a colour wherever they are a whole cell."""


def print_document(value: object, form: Format) -> None:
    """Print Structs, dataclasses, lists and dicts as JSON or YAML."""
    import msgspec

    if form is Format.JSON:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
        return
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    yaml.dump(msgspec.to_builtins(value), sys.stdout, dumper, sort_keys=False, allow_unicode=True)


def print_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    form: Format = Format.WIDE,
    *,
    nothing: str = "",
) -> None:
    """Print rows, one cell for each column; with Format.TABLE without the wide columns.

    `nothing`: said to a person in place of a table without rows.
    """
    shown = [at for at, column in enumerate(columns) if form is Format.WIDE or not column.is_wide]
    chosen = [columns[at] for at in shown]
    cells = [[row[at] for at in shown] for row in rows]
    if nothing and not cells and is_terminal():
        say(nothing)
    elif is_for_a_person(len(cells)):
        _print_for_a_person(chosen, cells)
    else:
        _print_plain(chosen, cells)


def is_for_a_person(rows: int) -> bool:
    """Whether somebody reads a table of so many rows: then a cell may have several lines."""
    return is_terminal() and rows <= _READ_ROWS


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def say(text: str = "", *, style: str | None = None) -> None:
    """Print one line; `style` is for terminals only."""
    if style is None or not is_terminal():
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(text, style=style), soft_wrap=True)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on; nothing is left of it afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _print_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    table = [[column.header for column in columns], *rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    form = _GAP.join(
        f"{{:>{width}}}" if column.is_number else f"{{:<{width}}}"
        for column, width in zip(columns, widths, strict=True)
    )
    sys.stdout.write("".join(form.format(*row).rstrip() + "\n" for row in table))


def _print_for_a_person(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    cells = [[cell.splitlines() or [""] for cell in row] for row in rows]
    _wrap_sentences(columns, cells, console.width)
    widths = _widths(columns, cells)

    def write(line: Sequence[str], style_of: Callable[[str], str]) -> None:
        text = Text(_GAP).join(
            Text(" " * (width - len(cell)) if column.is_number else "").append(
                cell if column.is_number else f"{cell:<{width}}", style_of(cell)
            )
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        text.rstrip()
        console.print(text, soft_wrap=True)

    write([column.header for column in columns], lambda _: "bold")
    for row in cells:
        for line in zip_longest(*row, fillvalue=""):
            write(line, lambda cell: STYLES.get(cell, ""))


def _wrap_sentences(
    columns: Sequence[Column], cells: Sequence[list[list[str]]], terminal: int
) -> None:
    """Break sentences at words, where they share what room the other columns leave."""
    sentences = [at for at, column in enumerate(columns) if column.is_sentence]
    widths = _widths(columns, cells)
    room = terminal - sum(widths) - len(_GAP) * (len(columns) - 1)
    room += sum(widths[at] for at in sentences)
    for left, at in zip(range(len(sentences), 0, -1), sentences, strict=True):
        wrapper = textwrap.TextWrapper(
            max(room // left, _MIN_SENTENCE), break_long_words=False, break_on_hyphens=False
        )
        for row in cells:
            row[at] = [part for line in row[at] for part in wrapper.wrap(line) or [""]]
        room -= _widths(columns, cells)[at]


def _widths(columns: Sequence[Column], cells: Iterable[Sequence[Sequence[str]]]) -> list[int]:
    widths = [len(column.header) for column in columns]
    for row in cells:
        widths = [max(width, *map(len, cell)) for width, cell in zip(widths, row, strict=True)]
    return widths


def count(number: int, noun: str) -> str:
    """`1 backend`, `2 backends`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def dash(value: Any) -> str:
    """The value as text; `-` for nothing."""
    return str(value) if value not in (None, "", []) else "-"
