# SPDX-License-Identifier: Apache-2.0
"""One lab for each proxy, all alike and all up at once, so that proxies can take turns.

    outside ──── node-1 ──── client    (in the cgroup that socket hooks serve)
       │           ├──────── local     answers 'l'   ┐ pinned to one CPU,
       └──(fabric)─┤                                 │ clients to the other
                 node-2 ──── remote    answers 'r'   ┘

What comes from outside goes through node-1, also what is for node-2's pod, and back: so
that plain routing takes the same way as a NodePort.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.compare.services import TARGET_PORT, Servers
from vipbee.lab import Lab, Place, parse_topology

CLIENT_CPU, SERVER_CPU = 0, 1
LOAD_TIMEOUT_S = 90.0
_TOPOLOGY = """
nodes:
  - {name: node-1, pods: [{name: client-0}, {name: local}]}
  - {name: node-2, pods: [{name: remote}]}
"""


@dataclass(frozen=True, slots=True)
class Programs:
    """Compiled: the client and the server."""

    load: Path
    answer: Path


def build(directory: Path) -> Programs:
    """Raises CalledProcessError if the compiler is missing or unhappy."""
    built = Programs(directory / "load", directory / "answer")
    for program in (built.load, built.answer):
        source = Path(__file__).with_name(f"{program.name}.c")
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
        subprocess.run(command, check=True)
    return built


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the client. `p50_ns` and `p99_ns` of those that were done."""

    done: int
    failed: int
    took_ns: int
    p50_ns: int = 0
    p99_ns: int = 0
    answered_ns: int = 0

    @property
    def per_second(self) -> float:
        return self.done * 1e9 / self.took_ns


class Site:
    """A lab with its servers; close it."""

    def __init__(self, name: str, programs: Programs) -> None:
        self._programs = programs
        self.lab = Lab.up(parse_topology(_TOPOLOGY), name=name, agents=False)
        self._servers: list[subprocess.Popen[str]] = []
        try:
            self._route()
            for pod, byte in (("local", "l"), ("remote", "r")):
                self._serve(self.lab.pod(pod), byte)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            server.communicate()
        self.lab.down()

    @property
    def node(self) -> Place:
        return self.lab.node("node-1")

    def servers(self, family: int) -> Servers:
        return Servers(
            self.lab.pod("local").address(family), self.lab.pod("remote").address(family)
        )

    def load(
        self, mode: str, count: int, address: str, port: int, *extra: str, outside: bool = False
    ) -> Sample:
        """Run the client in its pod, or outside; CalledProcessError if it cannot connect at all."""
        place = self.lab.client if outside else self.lab.pod("client-0")
        argv = [str(self._programs.load), mode, str(CLIENT_CPU), str(count), address, str(port)]
        done = place.run([*argv, *extra], check=True, timeout_s=LOAD_TIMEOUT_S)
        return Sample(**json.loads(done.stdout))

    def start_load(
        self, mode: str, count: int, address: str, port: int, *extra: str
    ) -> subprocess.Popen[str]:
        """The same in the background; its output is a Sample as JSON."""
        argv = [str(self._programs.load), mode, str(CLIENT_CPU), str(count), address, str(port)]
        return self.lab.pod("client-0").popen([*argv, *extra])

    def bulk(self, milliseconds: int, address: str, port: int) -> float:
        """Bytes a second over one connection."""
        argv = [str(self._programs.load), "bulk", str(CLIENT_CPU), str(milliseconds)]
        done = self.lab.pod("client-0").run([*argv, address, str(port)], check=True)
        found = json.loads(done.stdout)
        return float(found["bytes"] * 1e9 / found["took_ns"])

    def awaiting(self, address: str, port: int, byte: str, tries: int) -> subprocess.Popen[str]:
        """The client, dialling until that server answers; its output is a Sample as JSON."""
        return self.start_load("until", tries, address, port, byte)

    def _route(self) -> None:
        node, client = self.node, self.lab.client
        for family in (4, 6):
            for pod in ("local", "remote"):
                to = self.lab.pod(pod).address(family)
                self._ip(client, family, "route", "replace", to, "via", node.address(family))
            back = (client.address(family), "via", node.address(family))
            self._ip(self.lab.node("node-2"), family, "route", "replace", *back)

    @staticmethod
    def _ip(place: Place, family: int, *argv: str) -> None:
        place.run(["ip", f"-{family}", *argv], check=True)

    def _serve(self, pod: Place, byte: str) -> None:
        argv = [str(self._programs.answer), str(SERVER_CPU), str(TARGET_PORT), byte]
        server = pod.popen(argv)
        self._servers.append(server)
        assert server.stdout is not None
        if not server.stdout.readline():
            raise RuntimeError(f"the server in {pod.name} did not start")
