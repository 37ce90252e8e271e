# SPDX-License-Identifier: Apache-2.0
"""The `vipbee` command: mounts one module a subcommand, turns errors into sentences.

A subcommand's module is imported when it is called, and imports what is heavy (NumPy,
aiohttp, the datapath) inside its functions, so `vipbee --version` is quick.

Exit codes: 0 done · 1 failed at run time · 2 bad usage or configuration · 3 environment not
usable · 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import typer.core
from typer.exceptions import TyperException

from vipbee import __version__
from vipbee.cli.help import SectionedCommand
from vipbee.errors import VipbeeError

_COMMANDS = {
    # name: (module, attribute): a function is one command, a Typer a group of them
    "agent": ("vipbee.cli.agent", "agent"),
    "check": ("vipbee.cli.check", "check"),
    "status": ("vipbee.cli.status", "status"),
    "service": ("vipbee.cli.service", "app"),
    "backend": ("vipbee.cli.backend", "app"),
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


def main(arguments: list[str] | None = None) -> None:
    """The console script: run one command and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command; print what went wrong as one sentence; return the exit code."""
    try:
        code = app(arguments, prog_name="vipbee", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except VipbeeError as error:
        return _complain(str(error), error.exit_code)
    except BaseExceptionGroup as group:  # from the agent's tasks
        ours, others = group.split(VipbeeError)
        if ours is None or others is not None:
            raise
        return max(_complain(str(error), error.exit_code) for error in _leaves(ours))
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not exported by typer
            print(error.format_message())
            return 0
        # the type of the error is pydantic's, inside typer, and says nothing to anybody
        return _complain(error.format_message().replace("Value error, ", ""), 2)
    except BrokenPipeError:
        # The reader has what it wanted; without this Python complains when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except PermissionError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _complain(f"{what}permission denied: run as root", 3)


def _complain(message: str, code: int) -> int:
    print(f"vipbee: {message.strip()}", file=sys.stderr)
    return code


def _leaves(group: BaseExceptionGroup[VipbeeError]) -> Iterator[VipbeeError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
