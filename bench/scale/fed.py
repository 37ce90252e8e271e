# SPDX-License-Identifier: Apache-2.0
"""A site whose agent is fed by a feeder: objects in, seconds, addresses and MiB out."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.place import Site
from bench.compare.vipbee_agent import METRICS_PORT, node_object
from bench.compare.watching import tree_usage
from tests.support.apiserver.placed import PORT
from vipbee.lab.agent import Agent

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_MARGIN_S = 30.0


@dataclass(slots=True)
class Fed:
    """A running agent on node-1, and the API server it reads."""

    site: Site
    process: subprocess.Popen[str]
    started_s: float  # from the agent's start until it was ready

    @property
    def agent(self) -> Agent:
        return self.site.lab.agent("node-1")

    def tell(self, command: str) -> Any:
        """Give the feeder a command and wait for its answer."""
        self.tell_later(command)
        return self.answer()

    def tell_later(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def usage(self) -> tuple[float, float]:
        """(CPU seconds so far, resident MiB) of the agent's processes."""
        return tree_usage(self.agent.process_id)

    def entries(self) -> dict[str, int]:
        """Entries of each table of Services."""
        found = msgspec.json.decode(self.agent.vipbee(["status", "-o", "json"]).stdout)
        tables = ("frontends", "addresses", "slots", "backends", "services")
        return {row["name"]: row["entries"] for row in found["maps"] if row["name"] in tables}

    def backends(self, service: str) -> list[str]:
        """Addresses that are programmed for a Service of the benchmark."""
        found = msgspec.json.decode(self.agent.vipbee(["service", "list", "-o", "json"]).stdout)
        return sorted(
            backend["address"]
            for row in found
            if row["name"] == service
            for backend in row["backends"]
        )


@contextlib.contextmanager
def fed(
    site: Site, objects: dict[str, list[dict[str, Any]]], *, map_sizes: dict[str, int]
) -> Iterator[Fed]:
    """`objects` by plural. The agent starts on nothing, and what it programmed is removed."""
    directory = Path(site.lab.directory)
    state = directory / "feeder.json"
    state.write_text(json.dumps({**objects, "nodes": [node_object(site)]}))
    config = directory / "agent.json"
    config.write_text(
        json.dumps(
            {
                "packet-lb": False,
                "metrics-bind-address": f"127.0.0.1:{METRICS_PORT}",
                "map-sizes": map_sizes,
            }
        )
    )
    server = site.lab.node("node-2")
    argv = [sys.executable, "-m", "bench.scale.feeder", f"{server.ipv4}:{PORT}", str(state)]
    command = ["env", f"PYTHONPATH={ROOT}:{ROOT / 'src'}", *argv]
    process = server.popen(command, stdin=subprocess.PIPE)
    agent = site.lab.agent("node-1")
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the API server did not start")
        agent.kubeconfig = _kubeconfig(directory, f"http://{server.ipv4}:{PORT}")
        agent.options = (f"--config={config}",)
        started = time.monotonic()
        agent.start()
        agent.wait_ready(READY_TIMEOUT_S)
        yield Fed(site, process, time.monotonic() - started)
    finally:
        agent.kill()
        agent.vipbee(["cleanup"])
        process.kill()
        process.communicate()


def _kubeconfig(directory: Path, url: str) -> Path:
    path = directory / "feeder-kubeconfig.json"
    content = {
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "lab", "user": {"token": "lab"}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    path.write_text(json.dumps(content))
    return path


def by_plural(objects: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What a state file calls endpoints are EndpointSlices."""
    return {"services": objects["services"], "endpointslices": objects["endpoints"]}
