# SPDX-License-Identifier: Apache-2.0
"""All subcommands, by typer; main.py runs `agent` without it.

A subcommand's module is imported when it is called, and imports what is heavy (NumPy,
aiohttp, the datapath) inside its functions, so `vipbee --version` is quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core
from typer.exceptions import TyperException

from vipbee import __version__
from vipbee.cli.help import SectionedCommand
from vipbee.errors import UsageError

_COMMANDS = {
    # name: (module, attribute): a function is one command, a Typer a group of them
    "agent": ("vipbee.cli.commands", "_agent"),
    "check": ("vipbee.cli.check", "check"),
    "status": ("vipbee.cli.status", "status"),
    "service": ("vipbee.cli.service", "app"),
    "backend": ("vipbee.cli.backend", "app"),
    "explain": ("vipbee.cli.explain", "explain"),
    "conntrack": ("vipbee.cli.connections", "conntrack"),
    "nat": ("vipbee.cli.connections", "nat"),
    "affinity": ("vipbee.cli.connections", "affinity"),
    "cleanup": ("vipbee.cli.cleanup", "cleanup"),
    "lab": ("vipbee.cli.lab", "app"),
    "demo": ("vipbee.cli.demo", "demo"),
}


class _Lazy(typer.core.TyperGroup):
    """Imports a subcommand only when it is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        mounted = getattr(importlib.import_module(module), attribute)
        if not isinstance(mounted, typer.Typer):
            alone = typer.Typer()
            alone.command(cmd_name, cls=SectionedCommand)(mounted)
            mounted = alone
        mounted._add_completion = False  # offered once, at the top, if at all
        mounted.rich_markup_mode = None
        return typer.main.get_command(mounted)


app = typer.Typer(
    name="vipbee",
    cls=_Lazy,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vipbee {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def vipbee(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Kubernetes Services with eBPF instead of netfilter, beside any CNI or without Kubernetes."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _agent() -> None:
    """Keep this node's kernel equal to what the Services say."""


def run_command(arguments: Sequence[str]) -> int:
    """Run one; return the exit code, or raise what main.run() makes a sentence of."""
    try:
        code = app(list(arguments), prog_name="vipbee", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not exported by typer
            print(error.format_message())
            return 0
        # the type of the error is pydantic's, inside typer, and says nothing to anybody
        raise UsageError(error.format_message().replace("Value error, ", "")) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
