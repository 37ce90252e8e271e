# SPDX-License-Identifier: Apache-2.0
"""How commands print: `-o table|wide|json|yaml`, tables for people, lines for programs.

On a terminal tables are rich's; anywhere else, and when very long, plain aligned
columns: no colour, nothing cut, one line a row. Data goes to stdout, progress and
errors to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer

_RICH_ROWS = 500  # rich measures every cell twice: beyond this, people wait for it


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
    columns: Sequence[Column], rows: Iterable[Sequence[str]], form: Format = Format.WIDE
) -> None:
    """Print rows, one cell for each column; with Format.TABLE without the wide columns."""
    shown = [at for at, column in enumerate(columns) if form is Format.WIDE or not column.is_wide]
    chosen = [columns[at] for at in shown]
    cells = [[row[at] for at in shown] for row in rows]
    if has_rich_table(len(cells)):
        _print_rich(chosen, cells)
    else:
        _print_plain(chosen, cells)


def has_rich_table(rows: int) -> bool:
    """Whether a table of so many rows is rich's: then a cell may have several lines."""
    return is_terminal() and rows <= _RICH_ROWS


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
    form = "  ".join(
        f"{{:>{width}}}" if column.is_number else f"{{:<{width}}}"
        for column, width in zip(columns, widths, strict=True)
    )
    sys.stdout.write("".join(form.format(*row).rstrip() + "\n" for row in table))


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.header, justify="right" if column.is_number else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)


def count(number: int, noun: str) -> str:
    """`1 backend`, `2 backends`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def dash(value: Any) -> str:
    """The value as text; `-` for nothing."""
    return str(value) if value not in (None, "", []) else "-"
