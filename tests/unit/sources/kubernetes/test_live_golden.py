# SPDX-License-Identifier: Apache-2.0
"""Every golden file once more, with an API server as the source: the same tables.

So `kubectl get svc,endpointslices,nodes -A -o yaml`, replayed with --state-file, gives what
the live source gives; also after every watch was broken, and to a second agent (F18-F29, R7).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden.test_golden import CAPACITY, FEATURES, LAYOUTS, Cluster, steps_of
from tests.support.apiserver import ApiServer
from tests.support.following import FAST
from vipbee.address import parse_address
from vipbee.reconcile import NodeSettings, Reconciler
from vipbee.sources.events import Changed, Loaded, SourceEvent, Synced
from vipbee.sources.kubernetes import Access, KubernetesSource

PLURALS = {"Service": "services", "EndpointSlice": "endpointslices", "Node": "nodes"}
WITHIN_S = 10.0


class LiveCluster(Cluster):
    """The golden tests' node, fed by a source."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__()
        self.tables.is_checked = False  # between two events of one step anything may be
        self.reconciler = Reconciler(
            self.tables, LAYOUTS, CAPACITY, NodeSettings("node-a", "0.0.0.0/0,::/0")
        )
        self._source = KubernetesSource(
            lambda: Access(servers=(server.url,)), "node-a", timing=FAST
        )
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        async def follow() -> None:
            async for batch in self._source.watch():
                for event in batch:
                    self._note(event)
                self.program()

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def program(self) -> None:
        self.reconciler.set_local_addresses(self.addresses)
        self.reconciler.program()
        self._news.set()

    async def until(self, fact: Callable[[], bool]) -> bool:
        """Whether it becomes true in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHIN_S):
                while not fact():
                    self._news.clear()
                    await self._news.wait()
        return fact()

    def _note(self, event: SourceEvent) -> None:
        match event:
            case Loaded():
                self.reconciler.replace(event.source, event.objects, event.problems)
            case Changed():
                self.reconciler.change(event.source, event.objects, event.deleted, event.problems)
            case Synced():
                self.reconciler.set_local_addresses(self.addresses)
                self.reconciler.begin()


def write(server: ApiServer, cluster: LiveCluster, step: dict[str, Any]) -> None:
    """One step of a golden file, as writes to the API server."""
    for name in step.get("delete", ()):
        kind, _, path = name.partition(" ")
        namespace, _, short = path.partition("/")
        assert server.objects.delete(PLURALS[kind], short, namespace)
    if "node" in step:
        cluster.addresses = tuple(parse_address(a) for a in step["node"].get("nodeport", ()))
        labels = {"topology.kubernetes.io/zone": step["node"].get("zone", "")}
        labels |= step["node"].get("labels", {})
        server.objects.put("nodes", {"metadata": {"name": "node-a", "labels": labels}})
    for item in step.get("apply", ()):
        server.objects.put(PLURALS[item["kind"]], item)


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_live_source_gives_the_tables_of_the_golden_file(path: Path) -> None:
    async def scenario() -> None:
        reference = Cluster()
        reference.tables.is_checked = False
        server = ApiServer()
        async with server.running():
            cluster = LiveCluster(server)
            async with cluster.following():
                for number, step in enumerate(steps_of(path)):
                    write(server, cluster, step)
                    cluster.program()
                    reference.take(step)
                    if number % 2:
                        server.break_connections()
                    wanted = reference.text()

                    if not await cluster.until(lambda wanted=wanted: cluster.text() == wanted):
                        assert cluster.text() == wanted, step["step"]

            again = LiveCluster(server)
            again.addresses = cluster.addresses
            async with again.following():
                assert await again.until(lambda: again.text() == reference.text())

    asyncio.run(scenario())
