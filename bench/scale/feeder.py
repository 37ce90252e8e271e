# SPDX-License-Identifier: Apache-2.0
"""An API server that changes its own objects: `python -m bench.scale.feeder HOST:PORT STATE`.

Writing over HTTP would measure the writer. Each line of input is a command, answered by a
line when it is done:

    slices SERVICE RATE SECONDS   so many updates a second of that Service's slices, at random:
                                  one endpoint of the slice gets another address
    churn RATE SECONDS            Services with their slices appear and go; none is left
                                  answered at once; `wait` is answered when they are done
    put PLURAL OBJECT             one write; answered with its CLOCK_MONOTONIC ns
    addresses SERVICE             all addresses of its slices
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from bench.compare.services import NAMESPACE, Cluster, Port, Servers, service_object, slice_object
from tests.support.apiserver.objects import Objects
from tests.support.apiserver.server import ApiServer

HISTORY = 5_000
"""Events that a watch may be behind before it must list again."""
STEP_S = 0.01
LIVE = 200  # Services of the churn that are there at a time
_SERVICE_LABEL = "kubernetes.io/service-name"
_FRESH = int(IPv4Address("10.200.0.0"))


class Feeder:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._random = random.Random(1)
        self._fresh = _FRESH
        self._running: asyncio.Task[dict[str, float]] | None = None

    async def obey(self, line: str) -> object:
        command, *arguments = line.split(" ", 2)
        match command:
            case "put":
                started = time.monotonic_ns()
                self._objects.put(arguments[0], json.loads(arguments[1]))
                return started
            case "addresses":
                return sorted(
                    address
                    for manifest in self._slices(arguments[0])
                    for endpoint in manifest["endpoints"]
                    for address in endpoint["addresses"]
                )
            case "slices":
                rate, seconds = arguments[1].split()
                paced = self._paced(float(rate), float(seconds), self._moves(arguments[0]))
                self._running = asyncio.create_task(paced)
                return None
            case "wait":
                assert self._running is not None
                return await self._running
            case "churn":
                done = await self._paced(float(arguments[0]), float(arguments[1]), self._churn())
                self._clear_churn()
                return done
        raise ValueError(f"no such command: {command}")

    async def _paced(self, rate: float, seconds: float, writes: Iterator[None]) -> dict[str, float]:
        """Do so many writes a second; `late_s` is how far it fell behind at worst."""
        started = time.monotonic()
        done, late_s = 0, 0.0
        while (elapsed := time.monotonic() - started) < seconds:
            due = int(elapsed * rate)
            while done < due:
                next(writes)
                done += 1
            late_s = max(late_s, time.monotonic() - started - done / rate)
            self._trim()
            await asyncio.sleep(STEP_S)
        return {"done": done, "took_s": time.monotonic() - started, "late_s": late_s}

    def _moves(self, service: str) -> Iterator[None]:
        slices = self._slices(service)
        while True:
            manifest = self._random.choice(slices)
            endpoint = self._random.choice(manifest["endpoints"])
            self._fresh += 1
            endpoint["addresses"] = [str(IPv4Address(self._fresh))]
            self._objects.put("endpointslices", manifest)
            yield

    def _churn(self) -> Iterator[None]:
        """One write each: Services appear with a slice, and the oldest go."""
        cluster = Cluster(0, 4, Servers("", ""))
        number = 0
        while True:
            number += 1
            self._fresh += 1
            port = Port(
                f"churn-{number % (2 * LIVE)}",
                "http",
                "TCP",
                str(IPv4Address(int(IPv4Address("10.98.0.0")) + number % (2 * LIVE))),
                80,
                (str(IPv4Address(self._fresh)),),
            )
            self._objects.put("services", service_object([port], 4))
            yield
            self._objects.put("endpointslices", slice_object([port], 4, cluster.servers))
            yield
            if number > LIVE:
                old = f"churn-{(number - LIVE) % (2 * LIVE)}"
                self._objects.delete("endpointslices", f"{old}-1", NAMESPACE)
                yield
                self._objects.delete("services", old, NAMESPACE)
                yield

    def _clear_churn(self) -> None:
        for number in range(2 * LIVE):
            self._objects.delete("endpointslices", f"churn-{number}-1", NAMESPACE)
            self._objects.delete("services", f"churn-{number}", NAMESPACE)

    def _slices(self, service: str) -> list[dict[str, Any]]:
        return [
            copy.deepcopy(dict(stored.manifest))
            for stored in self._objects.items["endpointslices"].values()
            if stored.manifest["metadata"].get("labels", {}).get(_SERVICE_LABEL) == service
        ]

    def _trim(self) -> None:
        history = self._objects.history
        if len(history) > 2 * HISTORY:
            del history[:-HISTORY]
            self._objects.compacted = history[0].revision - 1


async def _serve(address: str, state: Path) -> None:
    server = ApiServer()
    for plural, manifests in json.loads(state.read_text()).items():
        for manifest in manifests:
            server.objects.put(plural, manifest)
    server.objects.compact()
    host, _, port = address.rpartition(":")
    await server.start(host, int(port))
    feeder = Feeder(server.objects)
    reader = asyncio.StreamReader(limit=64 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("listening", flush=True)
    while line := await reader.readline():
        answer = await feeder.obey(line.decode().strip())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
