# SPDX-License-Identifier: Apache-2.0
"""A KubernetesSource on a test API server, and what the agent would know from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any

from tests.support.apiserver import ApiServer
from vipbee.core.request_counts import RequestCounts
from vipbee.model import ApiObject, EndpointSlice, Node, Service, ServiceCIDR, ServiceName
from vipbee.sources.events import (
    Changed,
    Failed,
    Loaded,
    Recovered,
    Removed,
    SourceEvent,
    Synced,
)
from vipbee.sources.kubernetes import Access, KubernetesSource
from vipbee.sources.kubernetes.mirror import MassDeleteGuard
from vipbee.sources.kubernetes.timing import Timing

FAST = Timing(
    watch_s=5, grace_s=5.0, connect_s=2.0, read_s=2.0, backoff_first_s=0.01, backoff_last_s=0.05
)
OFF = MassDeleteGuard(hold_s=0)
WITHIN_S = 10.0


class View:
    """What all events together say; every event is kept, too."""

    def __init__(self) -> None:
        self.events: list[SourceEvent] = []
        self.failures: dict[str, str] = {}
        self.problems: dict[str, list[str]] = {}
        self._objects: dict[str, dict[tuple[str, str], ApiObject]] = {}
        self._news = asyncio.Event()

    def take(self, batch: list[SourceEvent]) -> None:
        for event in batch:
            self.events.append(event)
            match event:
                case Loaded():
                    self._objects[event.source] = {_key(item): item for item in event.objects}
                    self.failures.pop(event.source, None)
                    self.problems[event.source] = [p.message for p in event.problems]
                case Changed():
                    objects = self._objects[event.source]
                    objects.update({_key(item): item for item in event.objects})
                    for name in event.deleted:
                        del objects[name.namespace, name.name]  # only what was there
                    self.problems[event.source] = [p.message for p in event.problems]
                case Failed():
                    self.failures[event.source] = str(event.error)
                case Removed() | Recovered():
                    self.failures.pop(event.source, None)
        self._news.set()

    @property
    def is_synced(self) -> bool:
        return any(isinstance(event, Synced) for event in self.events)

    def complained(self, text: str) -> bool:
        """Whether a failure with this text was ever reported."""
        return any(isinstance(e, Failed) and text in str(e.error) for e in self.events)

    def names(self, kind: type[ApiObject]) -> set[str]:
        return {item.metadata.name for item in self.objects(kind)}

    def objects(self, kind: type[ApiObject]) -> list[ApiObject]:
        return [i for o in self._objects.values() for i in o.values() if isinstance(i, kind)]

    @property
    def services(self) -> set[str]:
        return self.names(Service)

    @property
    def slices(self) -> set[str]:
        return self.names(EndpointSlice)

    @property
    def nodes(self) -> set[str]:
        return self.names(Node)

    @property
    def service_cidrs(self) -> set[str]:
        return self.names(ServiceCIDR)

    def lists(self, plural: str = "services") -> int:
        """How often a complete list came in."""
        source = f"API server: {plural}"
        return sum(1 for e in self.events if isinstance(e, Loaded) and e.source == source)

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until `fact()` is true."""
        async with asyncio.timeout(WITHIN_S):
            while not fact():
                self._news.clear()
                with contextlib.suppress(TimeoutError):  # facts about the server have no news
                    await asyncio.wait_for(self._news.wait(), 0.02)


@contextlib.asynccontextmanager
async def following(
    *servers: ApiServer,
    access: Callable[[], Access] | None = None,
    timing: Timing = FAST,
    guard: MassDeleteGuard = OFF,
    programmed: Collection[ServiceName] = (),
    served: Collection[ServiceName] = (),
    replicas: Sequence[str] = (),
    counts: RequestCounts | None = None,
    synced: bool = True,
) -> AsyncIterator[View]:
    """Follow these servers, as node-1; wait for the first complete list unless told not to."""
    load = access or (lambda: Access(servers=tuple(server.url for server in servers)))
    source = KubernetesSource(
        load,
        "node-1",
        timing=timing,
        guard=guard,
        programmed=programmed,
        served=served,
        replicas=replicas,
        counts=counts,
    )
    view = View()

    async def watch() -> None:
        async for batch in source.watch():
            view.take(batch)

    task = asyncio.create_task(watch())
    try:
        if synced:
            await view.until(lambda: view.is_synced)
        yield view
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(scenario: Callable[[ApiServer], Coroutine[Any, Any, None]]) -> None:
    """Run `scenario` with a running server that has Service a, its slice and node-1."""

    async def with_server() -> None:
        server = ApiServer()
        server.objects.put("services", service("a"))
        server.objects.put("endpointslices", endpoint_slice("a"))
        server.objects.put("nodes", {"metadata": {"name": "node-1"}})
        server.objects.put("nodes", {"metadata": {"name": "node-2"}})
        async with asyncio.timeout(30), server.running():
            await scenario(server)

    asyncio.run(with_server())


def service(name: str, ip: str = "10.96.0.1", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "labels": {key.replace("__", "/"): v for key, v in labels.items()},
        },
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
    }


def endpoint_slice(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses or ("10.244.0.1",)],
    }


def watched(server: ApiServer) -> list[str]:
    """Versions from which Services were watched."""
    watches = [r for r in server.requests if r[:2] == ("watch", "services")]
    return [request.query["resourceVersion"] for request in watches]


def line(kind: str, item: object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def versioned(item: dict, version: str = "1004") -> dict:  # type: ignore[type-arg]
    item["metadata"]["resourceVersion"] = version
    item["metadata"].setdefault("namespace", "default")
    return item


def _key(item: ApiObject) -> tuple[str, str]:
    return item.metadata.namespace, item.metadata.name
