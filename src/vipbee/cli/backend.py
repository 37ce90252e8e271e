# SPDX-License-Identifier: Apache-2.0
"""`vipbee backend list`: backends, state, connections, and their Services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vipbee.cli.output import Column, Format, FormatOption, print_document, print_table, working
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption, open_tables
from vipbee.cli.service import NamespaceOption, ServiceArgument, parse_wanted
from vipbee.errors import VipbeeError

if TYPE_CHECKING:
    from vipbee.observe.view import ServiceBackendView

app = typer.Typer(
    name="backend", help="Look at backends: state, connections, Services.", no_args_is_help=True
)

_COLUMNS = (
    Column("BACKEND"),
    Column("STATE"),
    Column("NODE"),
    Column("ACTIVE", is_number=True),
    Column("OPENED", is_number=True),
    Column("SERVICE"),
    Column("PORT NAME", is_wide=True),
    Column("SELECTED", is_wide=True),
)


@app.callback()
def backend() -> None:
    """Look at backends: state, connections, Services."""


@app.command("list")
def list_(
    which: ServiceArgument = None,
    namespace: NamespaceOption = None,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """List backends as programmed: state, connections, Service.

    A backend of several Services has one row for each. NODE says whether it is on this one.
    """
    from vipbee.observe.readings import read
    from vipbee.observe.services import backends

    wanted = parse_wanted(which, namespace)
    with working("Reading the tables …"), open_tables(bpf_root) as tables:
        found = backends(read(tables), wanted)
    if which is not None and not found:
        raise VipbeeError(f"no backend of Service {which} is programmed")
    if output.is_document:
        print_document(found, output)
        return
    print_table(_COLUMNS, map(_row, found), output, nothing="no such backend is programmed")


def _row(view: ServiceBackendView) -> tuple[str, ...]:
    return (
        str(view),
        view.state,
        "this" if view.node_local else "other",
        str(view.active),
        str(view.opened),
        f"{view.namespace}/{view.name}" if view.namespace else view.name,
        view.port_name or "-",
        "yes" if view.selected else "no",
    )
