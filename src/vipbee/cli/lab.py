# SPDX-License-Identifier: Apache-2.0
"""`vipbee lab up / down / exec / list`: clusters of network namespaces on this machine."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vipbee.cli.lab_picture import draw_lab
from vipbee.cli.output import (
    Column,
    Format,
    FormatOption,
    dash,
    print_document,
    print_table,
    working,
)
from vipbee.errors import UsageError
from vipbee.lab import Lab
from vipbee.lab.endpoints import cluster_ips
from vipbee.lab.place import child_environment
from vipbee.lab.teardown import list_labs, require_root, tear_down

app = typer.Typer(
    name="lab",
    help="Build clusters of network namespaces with real servers.",
    no_args_is_help=True,
)

NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="Which lab; not needed if only one is up.")
]


COLUMNS = (
    Column("LAB"),
    Column("STATE"),
    Column("NETWORK"),
    Column("NODES", is_number=True),
    Column("PODS", is_number=True),
    Column("AGENTS"),
    Column("STATE FILE", is_wide=True),
)


@app.command()
def up(
    file: Annotated[Path, typer.Argument(help="Topology file, as examples/lab.yaml.")],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Instead of the file's name.")
    ] = None,
    agents: Annotated[bool, typer.Option(help="Start one vipbee agent a node.")] = True,
    output: FormatOption = Format.TABLE,
) -> None:
    """Build the lab and wait until its servers and agents are ready.

    A lab of the same name, running or left over from a killed run, is replaced.
    """
    end_on_sigterm()
    with working("Building namespaces, starting servers and agents …"):
        lab = Lab.up(file, name=name, agents=agents)
    if output.is_document:
        print_document(describe_lab(lab.name), output)
        return
    Console().print(draw_lab(lab))
    for what, how in (
        (
            "run a program in it",
            f"vipbee lab exec {_example_place(lab)} -- {_example_program(lab)}",
        ),
        ("look at a node", f"vipbee service list --bpf-root {lab.agents[0].bpf_root}"),
        ("change Services", f"edit {lab.state_file}"),
        ("remove it", f"vipbee lab down --name {lab.name}"),
    ):
        print(f"{what + ':':21}{how}")


@app.command()
def down(
    name: NameOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every lab of this machine.")] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Remove a lab with all its processes, namespaces, cgroups and pins.

    Also what a killed run left over. It is no error if there is nothing to remove.
    """
    require_root()
    if name is None and not every and len(list_labs()) > 1:
        raise UsageError(f"several labs are up ({', '.join(list_labs())}): say --name or --all")
    names = [name] if name is not None else list_labs()
    removed = [lab for lab in names if tear_down(lab)]
    if output.is_document:
        print_document({"removed": removed}, output)
        return
    print("\n".join(f"lab {lab} removed" for lab in removed) or "no lab to remove")


@app.command(
    "exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True}
)
def execute(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="A pod, a node, or client.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROGRAM", help="What to run there, with its arguments, after --."),
    ] = None,
    name: NameOption = None,
) -> None:
    """Run a program in a pod, on a node or on the outside client.

    It replaces this process: terminal, signals and exit code are the program's own.
    """
    require_root()
    argv = command or []
    if argv[:1] == ["--"]:
        argv = argv[1:]
    if not argv:
        raise UsageError("lab exec needs a program: vipbee lab exec POD -- PROGRAM")
    found = Lab.open(pick_lab(name)).place(place)
    launcher = found.command(argv)
    sys.stdout.flush()
    os.execve(launcher[0], launcher, child_environment())


@app.command("list")
def list_(output: FormatOption = Format.TABLE) -> None:
    """List the labs of this machine, with their nodes and pods."""
    require_root()
    labs = [describe_lab(name) for name in list_labs()]
    if output.is_document:
        print_document(labs, output)
    else:
        print_table(COLUMNS, [_row(lab) for lab in labs], output, nothing="no lab is up")


def pick_lab(name: str | None) -> str:
    """The lab that is meant: the named one, else the only one."""
    if name is not None:
        return name
    labs = list_labs()
    if len(labs) == 1:
        return labs[0]
    if not labs:
        raise UsageError("no lab is up: start one with `vipbee lab up FILE`")
    raise UsageError(f"several labs are up ({', '.join(labs)}): say --name")


def describe_lab(name: str) -> dict[str, Any]:
    """One lab as `lab list -o json` shows it; `state` is `leftover` if its record is gone."""
    try:
        lab = Lab.open(name)
    except UsageError:
        return {"name": name, "state": "leftover", "places": []}
    return {
        "name": name,
        "state": "up",
        "network": str(lab.topology.network),
        "stateFile": str(lab.state_file),
        "agents": {agent.place.name: bool(agent.pids) for agent in lab.agents},
        "places": [
            {
                "name": plan.name,
                "kind": str(plan.kind),
                "node": plan.node,
                "addresses": [str(plan.ipv4), str(plan.ipv6)],
                "servers": [f"{kind}:{port}" for kind, port in plan.servers],
                "namespace": plan.namespace,
            }
            for plan in lab.blueprint.places
        ],
    }


def end_on_sigterm() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that `finally` blocks clean up."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def _example_place(lab: Lab) -> str:
    """A pod that serves nothing, if there is one."""
    clients = [pod.name for pod in lab.pods if not pod.plan.servers]
    return clients[0] if clients else lab.nodes[0].name


def _example_program(lab: Lab) -> str:
    """curl of the first Service that has a ClusterIP."""
    for service in lab.services:
        ports = service["spec"].get("ports")
        if ports and (addresses := cluster_ips(service["spec"])):
            return f"curl http://{addresses[0]}:{ports[0]['port']}/"
    return "ip route"


def _row(lab: dict[str, Any]) -> list[str]:
    kinds = [place["kind"] for place in lab["places"]]
    agents = lab.get("agents", {})
    return [
        lab["name"],
        lab["state"],
        dash(lab.get("network")),
        str(kinds.count("node")),
        str(kinds.count("pod")),
        f"{sum(agents.values())} of {len(agents)} running",
        dash(lab.get("stateFile")),
    ]
