# SPDX-License-Identifier: Apache-2.0
"""`vipbee service list`: frontends, type, policy, and backends with state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    is_for_a_person,
    print_document,
    print_table,
    working,
)
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption, open_tables
from vipbee.errors import UsageError, VipbeeError

if TYPE_CHECKING:
    from vipbee.observe.services import Wanted
    from vipbee.observe.view import BackendView, FrontendView, ServiceView

app = typer.Typer(
    name="service", help="Look at Services: frontends, policy, backends.", no_args_is_help=True
)

_SHOWN_BACKENDS = 4  # on a terminal; -o wide and pipes get all
_Row = tuple[str, ...]

_COLUMNS = (
    Column("SERVICE"),
    Column("PORT", is_wide=True),
    Column("FRONTEND"),
    Column("TYPE"),
    Column("POLICY"),
    Column("AFFINITY", is_wide=True),
    Column("BACKENDS"),
    Column("ACTIVE", is_number=True),
    Column("OPENED", is_number=True, is_wide=True),
    Column("REFUSED", is_number=True, is_wide=True),
    Column("ENDPOINTS", is_number=True, is_wide=True),
    Column("NODE ADDRESSES", is_wide=True),
)
_OWN = {"FRONTEND", "TYPE", "POLICY", "NODE ADDRESSES"}
"""Columns about the frontend; the others are about its Service."""

ServiceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[NAMESPACE/]NAME", help="One Service; all if not given."),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Services of this namespace only.")
]


@app.callback()
def service() -> None:
    """Look at Services: frontends, policy, backends."""


@app.command("list")
def list_(
    which: ServiceArgument = None,
    namespace: NamespaceOption = None,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """List Services as programmed: frontends, policy, backends.

    Reads the pinned maps, so it works while the agent is down. One row for each frontend. A
    backend on an (other node) is not for those whom policy Local binds.
    """
    from vipbee.observe.readings import read
    from vipbee.observe.services import services

    wanted = parse_wanted(which, namespace)
    with working("Reading the tables …"), open_tables(bpf_root) as tables:
        found = services(read(tables), wanted)
    if which is not None and not found:
        raise VipbeeError(f"Service {which} is not programmed")
    if output.is_document:
        print_document(found, output)
        return
    rows = [row for view in found for row in _rows(view)]
    if is_for_a_person(len(rows)):
        limit = None if output is Format.WIDE else _SHOWN_BACKENDS
        rows = [row for view in found for row in _rows_for_a_person(view, limit)]
    print_table(_COLUMNS, rows, output, nothing="no such Service is programmed")


def parse_wanted(which: str | None, namespace: str | None) -> Wanted:
    """The filter that `[NAMESPACE/]NAME` and --namespace mean together."""
    from vipbee.observe.services import Wanted

    if which is None:
        return Wanted(namespace)
    before, slash, name = which.rpartition("/")
    if not name or (slash and not before) or "/" in before:
        raise UsageError(f"{which!r} is not NAMESPACE/NAME")
    if slash and namespace not in (None, before):
        raise UsageError(f"{which} is not in namespace {namespace}: give one of them")
    return Wanted(before if slash else namespace, name)


def _rows(view: ServiceView) -> list[_Row]:
    """A line for each frontend, each complete, without spaces in its cells."""
    frontends = _frontends(view)
    backends = {
        is_local: ",".join(
            _backend(backend, "({})", is_local).replace(" ", "-") for backend in view.backends
        )
        for is_local in set(map(_is_local, frontends))
    }
    return [_row(view, frontend, backends[_is_local(frontend)] or "none") for frontend in frontends]


def _rows_for_a_person(view: ServiceView, limit: int | None) -> list[_Row]:
    """What all frontends of a Service share stands in its first row only; a line a backend."""
    is_local = any(map(_is_local, view.frontends))
    lines = [_backend(backend, " ({})", is_local) for backend in view.backends[:limit]]
    if len(lines) < len(view.backends):
        lines.append(f"+{len(view.backends) - len(lines)} more")
    first, *others = [
        _row(view, frontend, "\n".join(lines) or "none") for frontend in _frontends(view)
    ]
    blank = [
        tuple(
            cell if column.header in _OWN else ""
            for column, cell in zip(_COLUMNS, row, strict=True)
        )
        for row in others
    ]
    return [first, *blank]


def _frontends(view: ServiceView) -> Sequence[FrontendView | None]:
    return view.frontends or (None,)


def _row(view: ServiceView, frontend: FrontendView | None, backends: str) -> _Row:
    addresses = frontend.node_addresses if frontend else []
    refused = view.connections.refused + view.connections.unreachable
    return (
        str(view),
        f"{view.port_name}:{view.port}" if view.port_name else str(view.port),
        str(frontend or "-"),
        frontend.type if frontend else view.type,
        frontend.policy if frontend else "-",
        f"{view.affinity_timeout_seconds}s" if view.affinity_timeout_seconds else "-",
        backends,
        str(view.connections.active),
        str(view.connections.opened),
        str(refused),
        str(view.endpoints),
        ",".join(addresses) or "-",
    )


def _is_local(frontend: FrontendView | None) -> bool:
    return frontend is not None and frontend.policy == "Local"


def _backend(backend: BackendView, remark: str, is_local: bool) -> str:
    """`10.244.1.2:8080`, and what may keep a connection from it: policy Local, its state."""
    text = str(backend).rpartition("/")[0]
    if backend.state != "active":
        return text + remark.format(backend.state)
    return text + remark.format("other node") if is_local and not backend.node_local else text
