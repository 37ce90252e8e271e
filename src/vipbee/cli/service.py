# SPDX-License-Identifier: Apache-2.0
"""`vipbee service list`: frontends, type, policy, and backends with state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    is_terminal,
    print_document,
    print_table,
    working,
)
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption, open_tables
from vipbee.errors import UsageError, VipbeeError

if TYPE_CHECKING:
    from vipbee.observe.services import Wanted
    from vipbee.observe.view import BackendView, FrontendView, ServiceView

app = typer.Typer(name="service", help="Look at Services.", no_args_is_help=True)

_SHOWN_BACKENDS = 3  # in one cell on a terminal; -o wide and pipes get all

_COLUMNS = (
    Column("SERVICE"),
    Column("PORT"),
    Column("FRONTEND"),
    Column("TYPE"),
    Column("POLICY"),
    Column("AFFINITY"),
    Column("BACKENDS"),
    Column("ACTIVE", is_number=True),
    Column("OPENED", is_number=True, is_wide=True),
    Column("REFUSED", is_number=True, is_wide=True),
    Column("ENDPOINTS", is_number=True, is_wide=True),
    Column("NODE ADDRESSES", is_wide=True),
)

ServiceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[NAMESPACE/]NAME", help="One Service; all if not given."),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Services of this namespace only.")
]


@app.callback()
def service() -> None:
    """Look at Services."""


@app.command("list")
def list_(
    which: ServiceArgument = None,
    namespace: NamespaceOption = None,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """List Services as programmed: frontends, type, policy, backends with state.

    Reads the pinned maps, so it works while the agent is down. One row for each frontend.
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
    print_table(_COLUMNS, [row for view in found for row in _rows(view, output)], output)


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


def _rows(view: ServiceView, output: Format) -> list[tuple[str, ...]]:
    shown = _backends(view.backends, everything=output is Format.WIDE or not is_terminal())
    frontends: list[FrontendView | None] = [*view.frontends] or [None]
    return [
        (
            str(view),
            _port(view),
            str(frontend or "-"),
            frontend.type if frontend else view.type,
            frontend.policy if frontend else "-",
            f"{view.affinity_timeout_seconds}s" if view.affinity_timeout_seconds else "-",
            shown,
            str(view.connections.active),
            str(view.connections.opened),
            str(view.connections.refused + view.connections.unreachable),
            str(view.endpoints),
            ",".join(frontend.node_addresses) if frontend and frontend.node_addresses else "-",
        )
        for frontend in frontends
    ]


def _port(view: ServiceView) -> str:
    """`http:80`, `80` without a name."""
    return f"{view.port_name}:{view.port}" if view.port_name else str(view.port)


def _backends(backends: list[BackendView], *, everything: bool) -> str:
    """Addresses separated by commas, without spaces, so that columns stay columns."""
    if not backends:
        return "none"
    shown = backends if everything else backends[:_SHOWN_BACKENDS]
    parts = [_backend(backend) for backend in shown]
    if len(shown) < len(backends):
        parts.append(f"+{len(backends) - len(shown)}")
    return ",".join(parts)


def _backend(backend: BackendView) -> str:
    """`10.244.1.2:8080`, with its state if that is not the usual one."""
    text = str(backend).rpartition("/")[0]
    return text if backend.state == "active" else f"{text}({backend.state.replace(' ', '-')})"
