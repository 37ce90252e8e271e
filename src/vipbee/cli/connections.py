# SPDX-License-Identifier: Apache-2.0
"""`vipbee conntrack list`, `nat list` and `affinity list`: live entries, with names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    dash,
    print_document,
    print_table,
    working,
)
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption, find_pins, open_tables
from vipbee.cli.service import NamespaceOption, ServiceArgument, parse_wanted
from vipbee.errors import VipbeeError

if TYPE_CHECKING:
    from pathlib import Path

    from vipbee.core.lifetimes import Lifetimes
    from vipbee.datapath.kernel import KernelTables
    from vipbee.observe.connections import AffinityView, ConntrackView, NatView
    from vipbee.observe.services import Wanted

conntrack = typer.Typer(
    name="conntrack", help="Look at connections of the packet layer.", no_args_is_help=True
)
nat = typer.Typer(name="nat", help="Look at how replies are translated back.", no_args_is_help=True)
affinity = typer.Typer(
    name="affinity", help="Look at clients that return to their backend.", no_args_is_help=True
)


class Zone(StrEnum):
    OUTSIDE = "outside"
    POD = "pod"


ClientOption = Annotated[
    str | None, typer.Option("--client", metavar="ADDRESS|CIDR", help="Of these clients only.")
]
StateOption = Annotated[
    str | None,
    typer.Option("--state", metavar="STATE", help="Such as handshake, established, udp."),
]
ZoneOption = Annotated[Zone | None, typer.Option("--zone", help="Who began it: only these.")]

_NO_CONNECTION = (
    "no such connection; those of the node's own programs are translated at connect and need no"
    " entry here"
)
_NO_AFFINITY = "no such client; clients are remembered for Services with sessionAffinity only"

_CONNTRACK = (
    Column("PROTOCOL"),
    Column("CLIENT"),
    Column("FRONTEND"),
    Column("BACKEND"),
    Column("SERVICE"),
    Column("STATE"),
    Column("AGE", is_number=True),
    Column("LEFT", is_number=True),
    Column("PORT NAME", is_wide=True),
    Column("SEEN AS", is_wide=True),
    Column("ZONE", is_wide=True),
    Column("EVICTABLE", is_wide=True),
    Column("BYPASSES STACK", is_wide=True),
)
_NAT = (
    Column("PROTOCOL"),
    Column("REPLY"),
    Column("ORIGINAL"),
    Column("SERVICE"),
    Column("AGE", is_number=True),
    Column("PORT NAME", is_wide=True),
    Column("ZONE", is_wide=True),
    Column("EVICTABLE", is_wide=True),
)
_AFFINITY = (
    Column("CLIENT"),
    Column("SERVICE"),
    Column("PORT NAME"),
    Column("BACKEND"),
    Column("IDLE", is_number=True),
    Column("LEFT", is_number=True),
)


@conntrack.callback()
def _conntrack() -> None:
    """Look at connections of the packet layer."""


@nat.callback()
def _nat() -> None:
    """Look at how replies are translated back."""


@affinity.callback()
def _affinity() -> None:
    """Look at clients that return to their backend."""


@conntrack.command("list")
def list_connections(
    which: ServiceArgument = None,
    namespace: NamespaceOption = None,
    client: ClientOption = None,
    state: StateOption = None,
    zone: ZoneOption = None,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """List live connections of the packet layer.

    Those of clients outside, and of pods that no socket hook sees: connections of the node's
    own programs are translated once, at connect, and need no entry. AGE: seconds since the
    last packet. LEFT: until it is forgotten, if none comes.
    """
    from vipbee.observe.connections import Filter, connections

    wanted = Filter(parse_wanted(which, namespace), client, state, zone)

    def read(tables: KernelTables) -> Iterable[ConntrackView]:
        return connections(tables, wanted, _lifetimes(bpf_root), _now_ns() // 1_000_000_000)

    _show(read, wanted.service, _NO_CONNECTION, _CONNTRACK, _connection_row, output, bpf_root)


@nat.command("list")
def list_nat(
    which: ServiceArgument = None,
    namespace: NamespaceOption = None,
    client: ClientOption = None,
    zone: ZoneOption = None,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """List reverse halves of connections: what a backend's reply becomes."""
    from vipbee.observe.connections import Filter, reverse_halves

    wanted = Filter(parse_wanted(which, namespace), client, None, zone)

    def read(tables: KernelTables) -> Iterable[NatView]:
        return reverse_halves(tables, wanted, _now_ns() // 1_000_000_000)

    _show(read, wanted.service, _NO_CONNECTION, _NAT, _nat_row, output, bpf_root)


@affinity.command("list")
def list_affinity(
    which: ServiceArgument = None,
    namespace: NamespaceOption = None,
    client: ClientOption = None,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """List clients with sessionAffinity and the backends they return to.

    A pod whose sockets are served is known by its network namespace, not by an address.
    """
    from vipbee.observe.connections import Filter, affinities

    wanted = Filter(parse_wanted(which, namespace), client)

    def read(tables: KernelTables) -> Iterable[AffinityView]:
        return affinities(tables, wanted, _now_ns())

    _show(read, wanted.service, _NO_AFFINITY, _AFFINITY, _affinity_row, output, bpf_root)


# ---- parts -----------------------------------------------------------------------------


def _show(
    read: Callable[[KernelTables], Iterable[Any]],
    wanted: Wanted,
    nothing: str,
    columns: Sequence[Column],
    row: Callable[[Any], tuple[str, ...]],
    output: Format,
    bpf_root: Path,
) -> None:
    with working("Reading the tables …"), open_tables(bpf_root) as tables:
        found = list(read(tables))
        if not found and wanted.name is not None:
            _refuse_unknown_service(tables, wanted)
    if output.is_document:
        print_document(found, output)
    else:
        print_table(columns, map(row, found), output, nothing=nothing)


def _refuse_unknown_service(tables: KernelTables, wanted: Wanted) -> None:
    """An empty list would look as if a misspelt Service had no connections."""
    from vipbee.observe.services import is_programmed

    if not is_programmed(tables.snapshot(), wanted):
        raise VipbeeError(f"Service {wanted} is not programmed")


def _now_ns() -> int:
    """The datapath's clock."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def _lifetimes(bpf_root: Path) -> Lifetimes:
    """As the programs were loaded with; the defaults if their constants are not pinned."""
    from vipbee.core.lifetimes import Lifetimes
    from vipbee.datapath.hooks import read_config
    from vipbee.datapath.layouts import load_layouts

    directory = find_pins(bpf_root)
    config = read_config(directory, load_layouts()) if directory is not None else None
    return Lifetimes.of(config) if config is not None else Lifetimes()


def _connection_row(view: ConntrackView) -> tuple[str, ...]:
    return (
        view.protocol,
        view.client,
        view.frontend,
        view.backend,
        view.service,
        view.state,
        str(view.age_seconds),
        str(view.remaining_seconds),
        dash(view.port_name),
        view.source,
        view.zone,
        "yes" if view.is_evictable else "no",
        "yes" if view.is_redirected else "no",
    )


def _nat_row(view: NatView) -> tuple[str, ...]:
    return (
        view.protocol,
        view.reply,
        view.original,
        view.service,
        str(view.age_seconds),
        dash(view.port_name),
        view.zone,
        "yes" if view.is_evictable else "no",
    )


def _affinity_row(view: AffinityView) -> tuple[str, ...]:
    return (
        view.client,
        view.service,
        dash(view.port_name),
        dash(view.backend),
        str(view.idle_seconds),
        str(view.remaining_seconds),
    )
