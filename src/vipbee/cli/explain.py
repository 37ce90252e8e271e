# SPDX-License-Identifier: Apache-2.0
"""`vipbee explain`: what is done with a connection or packet, and why."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer

from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    dash,
    print_document,
    print_table,
    say,
    working,
)
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption, find_pins, open_tables
from vipbee.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from vipbee.observe.explain.question import Question
    from vipbee.observe.explain.settings import Settings
    from vipbee.observe.explain.view import AnswerView, CandidateView, ExplainView

_STEPS = (Column("STEP"), Column("WHAT"), Column("RULES"))
_CANDIDATES = (
    Column("BACKEND"),
    Column("SHARE", is_number=True),
    Column("STATE"),
    Column("NODE"),
    Column("PATH"),
    Column("SEEN AS"),
)

DestinationArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS:PORT", help="What is dialled; IPv6 addresses in brackets.")
]
ProtocolOption = Annotated[
    str | None, typer.Option("--protocol", metavar="tcp|udp", help="Default: tcp.")
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="ADDRESS[:PORT]",
        help="Who asks; with a port, also for connections that exist. Default: a program of"
        " this node.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="By which device of the node its packets come in."
    ),
]
NoSynOption = Annotated[
    bool, typer.Option("--no-syn", help="TCP: a packet in the middle, not a connection's first.")
]


def explain(
    destination: DestinationArgument,
    protocol: ProtocolOption = None,
    sender: FromOption = None,
    device: DeviceOption = None,
    no_syn: NoSynOption = False,
    output: FormatOption = Format.TABLE,
    bpf_root: BpfRootOption = DEFAULT_BPF_ROOT,
) -> None:
    """Say where a connection or packet goes, and why, step by step.

    Reads the pinned maps and sends nothing. Exits 0 also for what is not ours.
    """
    from vipbee.observe.explain.question import parse_question

    question = parse_question(
        destination,
        protocol=protocol,
        sender=sender,
        ifindex=_ifindex(device) if device is not None else None,
        is_first=not no_syn,
    )
    with working("Reading the tables …"):
        view = _ask(question, bpf_root)
    if output.is_document:
        print_document(view, output)
    else:
        _print(view)


def _ifindex(device: str) -> int:
    if device.isascii() and device.isdigit():
        return int(device)
    try:
        return socket.if_nametoindex(device)
    except OSError:
        raise UsageError(
            f"there is no device {device} here: name one of the node, or give its index"
        ) from None


def _ask(question: Question, bpf_root: Path) -> ExplainView:
    from vipbee.datapath.layouts import load_layouts
    from vipbee.observe.explain.compose import explain as answer
    from vipbee.observe.explain.lookups import Lookups

    with open_tables(bpf_root) as tables:
        settings = _settings(bpf_root)
        lookups = Lookups(
            tables,
            load_layouts(),
            settings,
            now_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            device_names=_device_names(settings),
        )
        return answer(question, lookups)


def _settings(bpf_root: Path) -> Settings:
    from vipbee.datapath.attached import read_hooks
    from vipbee.datapath.hooks import read_config
    from vipbee.datapath.layouts import load_layouts
    from vipbee.observe.explain.settings import Settings

    directory = find_pins(bpf_root)
    if directory is None:
        return Settings()
    has_socket_hooks = any(hook.is_attached for hook in read_hooks(directory))
    config = read_config(directory, load_layouts())
    if config is None:  # `vipbee status` says so
        return Settings(has_socket_hooks=has_socket_hooks)
    return Settings.of(config, has_socket_hooks=has_socket_hooks)


def _device_names(settings: Settings) -> dict[int, str]:
    """Of the node's devices, if this process is in its network namespace."""
    from vipbee.datapath.netns_cookie import netns_cookie

    if settings.node_netns_cookie not in (0, netns_cookie()):
        return {}
    return dict(socket.if_nameindex())


# ---- for people ------------------------------------------------------------------------


def _print(view: ExplainView) -> None:
    say(view.summary, style="bold")
    for answer in view.answers:
        say()
        say(_headline(answer), style="bold")
        print_table(_STEPS, [(s.step, s.says, dash(" ".join(s.rules))) for s in answer.steps])
        if answer.candidates:
            say()
            print_table(_CANDIDATES, map(_candidate_row, answer.candidates))
    if view.problems:
        say()
        print_table(
            (Column("PROBLEM"), Column("OBJECT"), Column("MESSAGE")),
            [(p.severity, p.object, p.message) for p in view.problems],
        )


def _headline(answer: AnswerView) -> str:
    """`Packets, from outside, at uplink_in: drop; source_range, counted 12 times so far`."""
    whom = "from outside" if answer.role == "outside" else f"from a {answer.role}"
    whom = {"node": "from this node", "forwarded": "forwarded"}.get(answer.role, whom)
    line = f"{answer.layer.capitalize()}, {whom}, at {answer.hook}: {answer.verdict}"
    if answer.reason is not None:
        times = "once" if answer.counted == 1 else f"{answer.counted:,} times"
        line += f"; {answer.reason}, counted {times} so far"
    return line


def _candidate_row(view: CandidateView) -> tuple[str, ...]:
    host = f"[{view.address}]" if ":" in view.address else view.address
    return (
        f"{host}:{view.port}",
        f"{view.share_percent:.1f}%",
        view.state,
        "this" if view.node_local else "other",
        view.path,
        " or ".join(view.seen_as) or "-",
    )
