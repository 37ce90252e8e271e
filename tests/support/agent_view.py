# SPDX-License-Identifier: Apache-2.0
"""What an operator can see of a lab's agent: its probes, its log, `vipbee status`.

Status is read in this process, fifty times as fast as by the command; test_cli runs that.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.support.eventually import eventually
from vipbee.abi import LAYOUT_VERSION
from vipbee.cli.pinned import open_tables
from vipbee.lab import Agent
from vipbee.observe.status import StatusView, fill, read_agent


class HttpAnswer(NamedTuple):
    status: int  # 0: nobody answers
    body: str


def get(agent: Agent, path: str, *, port: int = 10256) -> HttpAnswer:
    """GET from loopback of the agent's node."""
    done = agent.place.run(
        ["curl", "-s", "-m", "5", "-w", "\n%{http_code}", f"http://127.0.0.1:{port}{path}"]
    )
    body, _, code = done.stdout.rpartition("\n")
    return HttpAnswer(int(code), body)


def status(agent: Agent) -> StatusView:
    """What `vipbee status` shows, without hooks."""
    view = StatusView(
        running=agent.is_running,
        programmed=True,
        layout=LAYOUT_VERSION,
        bpf_root=str(agent.bpf_root),
    )
    with open_tables(agent.bpf_root) as tables:
        view.agent = read_agent(tables)
        fill(view, tables, hooks=(), degraded=())
    return view


def problems(agent: Agent) -> dict[str, str]:
    """What the agent complains about now: object → message."""
    return {found.object: found.message for found in status(agent).problems}


def wait_log(agent: Agent, text: str, *, within_s: float = 10.0, after: int = 0) -> str:
    """Wait until a line of the log, from byte `after` on, has `text`; return that line."""

    def lines() -> list[str]:
        return [line for line in agent.log.read_text()[after:].splitlines() if text in line]

    eventually(lines, within_s=within_s, what=f"{text!r} in the log of {agent.place.name}")
    return lines()[0]
