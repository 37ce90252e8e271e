# SPDX-License-Identifier: Apache-2.0
"""The `vipbee` command: runs a subcommand, turns errors into sentences.

The agent is started from here at once, every other subcommand through commands.py: so the
agent does without typer, and `vipbee --version` without all the rest.

Exit codes: 0 done · 1 failed at run time · 2 bad usage or configuration · 3 environment not
usable · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from vipbee.errors import VipbeeError


def main(arguments: list[str] | None = None) -> None:
    """The console script: run one command and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; print what went wrong as one sentence; return the exit code."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except VipbeeError as error:
        return _complain(str(error), error.exit_code)
    except BaseExceptionGroup as group:  # from the agent's tasks
        ours, others = group.split(VipbeeError)
        if ours is None or others is not None:
            raise
        return max(_complain(str(error), error.exit_code) for error in _leaves(ours))
    except BrokenPipeError:
        # The reader has what it wanted; without this Python complains when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except PermissionError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _complain(f"{what}permission denied: run as root", 3)


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["agent"]:
        from vipbee.cli.agent import agent

        return agent(arguments[1:])
    from vipbee.cli.commands import run_command

    return run_command(arguments)


def _complain(message: str, code: int) -> int:
    print(f"vipbee: {message.strip()}", file=sys.stderr)
    return code


def _leaves(group: BaseExceptionGroup[VipbeeError]) -> Iterator[VipbeeError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
