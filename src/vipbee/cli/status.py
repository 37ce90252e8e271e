# SPDX-License-Identifier: Apache-2.0
"""`vipbee status`: is it running, attached where, what is programmed, what is degraded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    count,
    print_document,
    print_table,
    say,
    working,
)
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption, find_pins, open_tables
from vipbee.cli.status_devices import (
    device_problems,
    devices_line,
    print_devices,
    read_devices_view,
)

if TYPE_CHECKING:
    from vipbee.datapath.pins import PinDirectory
    from vipbee.observe.status import DeviceView, HookView, StatusView

_SHOWN_PROBLEMS = 10  # the rest with -o wide


def status(output: FormatOption = Format.TABLE, bpf_root: BpfRootOption = DEFAULT_BPF_ROOT) -> None:
    """Show what runs, what is programmed and what is degraded.

    Reads the pinned maps, so it works while the agent is down. Exits 0 if Services are
    programmed, 1 if nothing is.
    """
    with working("Reading the tables …"):
        view = read_status(bpf_root, compare_programs=output is not Format.TABLE)
    if output.is_document:
        print_document(view, output)
    else:
        _print(view, output)
    if not view.programmed:
        raise typer.Exit(1)


def read_status(bpf_root: Path, *, compare_programs: bool = True) -> StatusView:
    """Everything there is to say; `programmed` is false if nothing is pinned.

    `compare_programs` with those of this version: costs a trial load, half a second.
    """
    from vipbee.abi import LAYOUT_VERSION
    from vipbee.datapath import pins
    from vipbee.datapath.hooks import degradations, read_config
    from vipbee.datapath.layouts import load_layouts
    from vipbee.observe.status import StatusView, fill, read_agent
    from vipbee.privileged.probe import describe_rights

    directory = find_pins(bpf_root)
    is_held = bpf_root.is_dir() and pins.is_held(bpf_root)
    view = StatusView(
        running=is_held,
        programmed=directory is not None,
        layout=LAYOUT_VERSION,
        bpf_root=str(bpf_root),
    )
    if directory is None:
        return view
    layouts = load_layouts()
    with open_tables(bpf_root) as tables:
        view.agent = read_agent(tables)
        # the lock alone may be a cleanup's, the pid alone another program's by now
        view.running = is_held and view.agent is not None and _is_alive(view.agent.pid)
        if view.running and view.agent is not None:
            view.agent.rights = describe_rights(view.agent.pid)
        hooks = _hooks(directory, compare_programs=compare_programs)
        degraded = [*_hook_problems(hooks), *degradations(directory, layouts)]
        config = read_config(directory, layouts)
        view.packet_lb = config is not None and bool(config["packet_lb"])
        devices: list[DeviceView] | None = []
        if config is not None and view.packet_lb:
            devices = read_devices_view(directory, tables, int(config["node_netns_cookie"]))
        degraded += device_problems(devices, packet_lb=view.packet_lb)
        view.devices = devices or []
        fill(view, tables, hooks=hooks, degraded=degraded)
    return view


def _hooks(directory: PinDirectory, *, compare_programs: bool) -> list[HookView]:
    from vipbee.datapath.attached import read_hooks
    from vipbee.datapath.hooks import cgroup_paths, shipped_tags
    from vipbee.observe.status import HookView

    found = read_hooks(directory)
    paths = cgroup_paths({hook.cgroup_id for hook in found})
    tags = shipped_tags() if found and compare_programs else {}
    return [
        HookView(
            name=hook.name,
            program_id=hook.program_id,
            tag=hook.tag,
            cgroup=str(paths[hook.cgroup_id]) if hook.cgroup_id in paths else None,
            attached=hook.is_attached,
            current=hook.tag == tags[hook.name] if hook.tag and hook.name in tags else None,
        )
        for hook in found
    ]


def _hook_problems(hooks: list[HookView]) -> list[str]:
    if not hooks:
        return ["the socket layer is off: no connection is translated"]
    lost = [hook.name for hook in hooks if not hook.attached]
    old = [hook.name for hook in hooks if hook.current is False]
    found = []
    if lost:
        found.append(f"not attached: {', '.join(lost)}; restart the agent to attach them")
    if old:
        found.append("hooks run another version's programs until an agent of this one starts")
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ---- for people ------------------------------------------------------------------------


def _print(view: StatusView, output: Format) -> None:
    if not view.programmed:
        what = "starting" if view.running else "not running and nothing is programmed"
        say(f"{what} at {view.bpf_root}")
        return
    agent = view.agent
    facts = [("Agent", _headline(view))]
    if agent is not None:
        facts += [
            ("Node", agent.node),
            ("Version", f"{agent.version}, layout {view.layout}"),
            ("Source", agent.source),
            ("Rights", agent.rights or "-"),
            ("Started", agent.started or "-"),
            ("Last sync", agent.last_sync or "never: nothing has been read completely yet"),
            ("Audits", f"{agent.audits:,}; entries repaired: {agent.repairs:,}"),
        ]
    ports = count(view.service_ports, "Service port")
    programmed = f"{count(view.services, 'Service')} ({ports}), {count(view.frontends, 'frontend')}"
    facts += [
        ("Programmed", f"{programmed}, {count(view.backends, 'backend')}"),
        ("Hooks", _hooks_line(view)),
        ("Packets", devices_line(view)),
        ("Pins", view.bpf_root),
    ]
    width = max(len(name) for name, _ in facts) + 2
    for name, fact in facts:
        is_bad = name == "Agent" and not view.running
        say(f"{name + ':':<{width}}{fact}", style="bold yellow" if is_bad else None)
    _print_sections(view, output)


def _headline(view: StatusView) -> str:
    if view.running and view.agent is not None:
        return f"running (pid {view.agent.pid})"
    return "not running; what is programmed stays in force"


def _hooks_line(view: StatusView) -> str:
    if not view.hooks:
        return "none"
    attached = [hook for hook in view.hooks if hook.attached]
    places = sorted({hook.cgroup or "a cgroup not visible here" for hook in attached})
    where = f" at {', '.join(places)}" if places else ""
    return f"{len(attached)} of {len(view.hooks)} attached{where}"


def _print_sections(view: StatusView, output: Format) -> None:
    from vipbee.observe.reasons import meaning

    if output is Format.WIDE:
        columns = (Column("HOOK"), Column("PROGRAM", is_number=True), Column("TAG"))
        rows = [
            (h.name, str(h.program_id), h.tag or "-", h.cgroup or "-", _attachment(h))
            for h in view.hooks
        ]
        say()
        print_table((*columns, Column("CGROUP"), Column("STATE")), rows)
    print_devices(view, output)
    maps = [
        (m.name, f"{m.entries}", f"{m.capacity}", _percent(m.pressure))
        for m in view.maps
        if m.entries or output is Format.WIDE
    ]
    if maps:
        numbers = (Column(n, is_number=True) for n in ("ENTRIES", "CAPACITY", "USED"))
        say()
        print_table((Column("MAP"), *numbers), maps)
    counted = [
        (name, str(times), meaning(name))
        for name, times in view.reasons.items()
        if times or output is Format.WIDE
    ]
    if counted:
        say()
        why = Column("MEANING", is_sentence=True)
        print_table((Column("REASON"), Column("COUNT", is_number=True), why), counted)
    if view.problems:
        shown = view.problems if output is Format.WIDE else view.problems[:_SHOWN_PROBLEMS]
        say()
        print_table(
            (Column("PROBLEM"), Column("OBJECT"), Column("MESSAGE", is_sentence=True)),
            [(p.severity, p.object, p.message) for p in shown],
        )
        if len(shown) < len(view.problems):
            say(f"and {len(view.problems) - len(shown)} more: -o wide shows all")
    if view.degraded:
        say("\nDegraded:")
        for sentence in view.degraded:
            say(f"  {sentence}", style="yellow")


def _attachment(hook: HookView) -> str:
    if not hook.attached:
        return "not attached"
    return "attached, another version" if hook.current is False else "attached"


def _percent(ratio: float) -> str:
    """`0%` only for nothing at all."""
    return "<1%" if 0 < ratio < 0.01 else f"{ratio:.0%}"
