# SPDX-License-Identifier: Apache-2.0
"""The node daemon: the one place where the parts are put together.

    source ──► Reconciler ──► KernelTables        one task follows the source
    audit, reclaim, addresses, health, metrics    one small task each

All tasks live in one group: if one fails unexpectedly the process ends with a message
and is started again; the kernel forwards on meanwhile. Stopping changes nothing in the
kernel either; only `vipbee cleanup` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial

import structlog

from vipbee.abi import MapName
from vipbee.collection import collect_rarely, settle
from vipbee.config import IN_CLUSTER, AgentConfig
from vipbee.core.lifetimes import Lifetimes
from vipbee.datapath import capabilities, hooks, netns, pins
from vipbee.datapath.btf import load_layouts
from vipbee.datapath.features import SIZED_MAPS, probe_features
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.loader import Loaded, LoadRequest, load
from vipbee.datapath.mounts import find_cgroup_root
from vipbee.datapath.release import release_stale_sockets
from vipbee.errors import CapacityError, EnvironmentUnusable, KernelError, SourceError, UsageError
from vipbee.model import Problem, ServiceName
from vipbee.noticeboard import Noticeboard
from vipbee.observe.health import Health
from vipbee.observe.http import serve_health, serve_metrics
from vipbee.observe.metrics import AgentMetrics
from vipbee.packet_layer import DeviceLists, start_packet_layer
from vipbee.reconcile import Applied, NodeSettings, Reconciler
from vipbee.sources import events
from vipbee.sources.kubernetes import (
    Access,
    KubernetesSource,
    MassDeleteGuard,
    in_cluster,
    load_access,
)
from vipbee.sources.statefile import StateFileSource
from vipbee.sweep import Sweep

log = structlog.get_logger()

RECLAIM_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 2.0
LOCK_WAIT_S = 5.0  # a rolling restart overlaps for a moment


class Agent:
    """A loaded datapath and what keeps it up to date. Built by `run`."""

    def __init__(
        self,
        config: AgentConfig,
        request: LoadRequest,
        loaded: Loaded,
        tables: KernelTables,
        health: Health,
    ) -> None:
        self._config = config
        self._request = request
        self._directory = loaded.directory
        self._adopted = loaded.adopted
        self._layouts = load_layouts()
        self._tables = tables
        self._reconciler = Reconciler(
            tables,
            self._layouts,
            tables.capacity,
            NodeSettings(node_name(config), str(config.node_port_addresses), loaded.packet_lb),
        )
        lists = DeviceLists(config.devices, config.pod_devices)
        self.packet_layer = start_packet_layer(request, loaded, tables, lists)
        self._board = Noticeboard(
            tables, self._layouts, node_name=node_name(config), source=config.source
        )
        self.health = health
        self.metrics = AgentMetrics(tables, self.health)

    # ---- life --------------------------------------------------------------------------

    async def start(self) -> None:
        """Adopt what is pinned and note who we are; nothing else is written yet."""
        if self._adopted:
            self._tables.renew_address_filter()
            self._reconciler.adopt()
        self._reconciler.set_local_addresses(await netns.local_addresses())
        self._board.write_card()
        await asyncio.to_thread(self.packet_layer.bring)

    @property
    def adopted_services(self) -> Collection[ServiceName]:
        return self._reconciler.adopted_services()

    async def follow_source(self, source: StateFileSource | KubernetesSource) -> None:
        """Program what the source says, from its first complete list on (R8)."""
        if isinstance(source, KubernetesSource):
            async for batch in source.watch():
                self._take_all(batch)
        else:
            async for event in source.watch():
                self._take_all([event])

    def _take_all(self, batch: Sequence[events.SourceEvent]) -> None:
        """Note every event, then program what all of them come to, once."""
        is_synced = False
        for event in batch:
            match event:
                case events.Changed():
                    self._reconciler.change(
                        event.source, event.objects, event.deleted, event.problems
                    )
                case events.Loaded():
                    self._reconciler.fail(event.source, None)
                    self._reconciler.replace(event.source, event.objects, event.problems)
                    log.info("source loaded", source=event.source, objects=len(event.objects))
                case events.Removed():
                    self._reconciler.fail(event.source, None)
                    self._reconciler.remove_source(event.source)
                    log.info("source removed", source=event.source)
                case events.Failed():
                    problem = Problem(event.source, str(event.error), is_error=True)
                    self._reconciler.fail(event.source, problem)
                    log.warning(
                        "source unusable, last good state stays",
                        source=event.source,
                        reason=str(event.error),
                    )
                case events.Recovered():
                    self._reconciler.fail(event.source, None)
                    log.info("source usable again", source=event.source)
                case events.Synced():
                    is_synced = True
        if not is_synced:
            self._step("programmed", self._reconciler.program)
            return
        self._step("first programming", self._reconciler.begin)
        self._step("audit", self._reconciler.audit)
        settle()
        log.info("ready", services=self._reconciler.counts()[0])

    async def audit_regularly(self) -> None:
        """Repair what somebody else changed; sooner after a failed write (R130)."""
        while True:
            started = time.monotonic()
            while time.monotonic() - started < self._config.audit_interval_s:
                await asyncio.sleep(min(RETRY_INTERVAL_S, self._config.audit_interval_s))
                if self._restored_datapath() or self._reconciler.out_of_step:
                    break
            self._tables.renew_address_filter()  # a bit that was cleared hides a VIP
            self._step("audit", self._reconciler.audit)

    async def reclaim_regularly(self) -> None:
        while True:
            await asyncio.sleep(RECLAIM_INTERVAL_S)
            self._step("retried", self._reconciler.reclaim)

    async def follow_addresses(self) -> None:
        """NodePorts follow the addresses of the node."""
        async for _ in netns.address_changes():
            self._reconciler.set_local_addresses(await netns.local_addresses())
            self._step("addresses changed", self._reconciler.program)

    async def follow_devices(self) -> None:
        """Keep the packet programs on the right devices."""
        await self.packet_layer.follow_devices(self._tell_problems)

    async def sweep_regularly(self) -> None:
        """Forget connections that are over, once it is known which Services there are."""
        config = hooks.read_config(self._directory, self._layouts)
        if config is not None:
            sweep = Sweep(self._tables, Lifetimes.of(config))
            await sweep.sweep_regularly(lambda: self._reconciler.begun)

    def _restored_datapath(self) -> bool:
        """Attach and pin again what somebody took away; True if the tables need an audit (F57)."""
        map_ids = self._tables.map_ids()
        if hooks.is_intact(self._directory, map_ids, socket_lb=self._request.socket_lb):
            return False
        try:
            replaced = load(self._request).replaced
            self._tables.open()
            self._tables.renew_address_filter()
        except (KernelError, EnvironmentUnusable) as error:
            log.error("hooks or pins were removed and cannot be restored", reason=str(error))
            return False
        log.warning("restored hooks or pins that somebody removed", programs=len(replaced))
        return True

    # ---- one step ----------------------------------------------------------------------

    def _step(self, what: str, action: Callable[[], Applied]) -> None:
        """Run one reconcile step and tell everybody who wants to know."""
        started = time.perf_counter()
        if self._reconciler.begun:  # a starting proxy waits for its source and is alive (R103)
            self.health.queued(time.time())
        try:
            applied = action()
        except (KernelError, CapacityError) as error:
            log.error("programming failed, will compare and retry", step=what, reason=str(error))
            return
        took_s = time.perf_counter() - started
        if self._reconciler.is_in_force:
            self.health.synced(time.time())
        self.health.set_node(self._reconciler.own_node())
        # with every audit too: an agent that was killed may not have come this far
        if applied.backends_withdrawn or what == "audit":
            self._release_sockets()
        self._tell_problems()
        if what == "audit":
            self._board.count_audit(repairs=applied.entries)
            self.metrics.repairs += applied.entries
        if applied.entries or applied.services or what == "audit":
            self.metrics.observe_sync(took_s, full=what == "first programming")
            self._board.write_card(is_synced=self._reconciler.is_in_force)
        if applied.entries:
            log.info(
                what,
                services=applied.services,
                entries=applied.entries,
                took_ms=round(took_s * 1e3, 2),
            )

    def _tell_problems(self) -> None:
        """Log problems that are new and put all where `vipbee status` finds them."""
        problems = [*self.packet_layer.problems(), *self._reconciler.problems()]
        self.metrics.problems = len(problems)
        try:
            fresh = self._board.write_problems(problems)
        except (KernelError, CapacityError) as error:
            log.warning("vipbee status does not show all problems", reason=str(error))
            return
        for problem in fresh:
            log.warning("problem", object=problem.object, reason=problem.message)

    def _release_sockets(self) -> None:
        try:
            released = release_stale_sockets(self._directory, self._layouts)
        except (OSError, RuntimeError) as error:  # no file descriptor, memory or thread to be had
            log.warning("UDP sockets of backends that are gone stay as they are", reason=str(error))
            return
        if released:
            log.info("released UDP sockets of backends that are gone", sockets=released)


async def run(config: AgentConfig) -> None:
    """Load, attach, program and keep it so until SIGTERM or SIGINT. Holds the lock throughout."""
    if config.state_file is None:
        try:  # what is wrong with it is said before anything is attached
            _api_access(config)
        except SourceError as error:
            raise UsageError(str(error)) from None
    collect_rarely()
    capabilities.require()
    pins.prepare_root(config.bpf_root)
    health = Health()
    with contextlib.ExitStack() as stack:
        stack.enter_context(pins.exclusive(config.bpf_root, wait_s=LOCK_WAIT_S))
        # before anything is attached: a port that is taken often means kube-proxy runs
        async with serve_health(config.healthz_bind, health):
            request = _request(config)
            loaded = _load(request)
            tables = stack.enter_context(KernelTables(loaded.directory, load_layouts()))
            agent = Agent(config, request, loaded, tables, health)
            await agent.start()
            await _work(config, agent)
    log.info("stopped; forwarding goes on until `vipbee cleanup`")


async def _work(config: AgentConfig, agent: Agent) -> None:
    source = _source(config, agent)
    metrics = serve_metrics(config.metrics_bind, agent.metrics.registry, agent.health)
    async with _stopped_by_signal(), metrics, asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.follow_source(source), name="source")
        tasks.create_task(agent.audit_regularly(), name="audit")
        tasks.create_task(agent.reclaim_regularly(), name="reclaim")
        tasks.create_task(agent.follow_addresses(), name="addresses")
        tasks.create_task(agent.follow_devices(), name="devices")
        tasks.create_task(agent.sweep_regularly(), name="sweep")


def _source(config: AgentConfig, agent: Agent) -> StateFileSource | KubernetesSource:
    if config.state_file is not None:
        return StateFileSource(config.state_file)
    return KubernetesSource(
        partial(_api_access, config),
        node_name(config),
        guard=MassDeleteGuard(**config.mass_delete_guard),
        programmed=agent.adopted_services,
    )


def _api_access(config: AgentConfig) -> Access:
    if config.kubeconfig is None or config.kubeconfig == IN_CLUSTER:
        return in_cluster(servers=config.api_servers)
    return load_access(config.kubeconfig, config.api_servers)


def _request(config: AgentConfig) -> LoadRequest:
    return LoadRequest(
        bpf_root=config.bpf_root,
        cgroup_root=config.cgroup_root or find_cgroup_root(),
        sizes=_sizes(config),
        features=probe_features(),
        node_netns_cookie=netns.netns_cookie(),
        bind_protection=config.bind_protection,
        socket_lb=config.socket_lb,
        packet_lb=config.packet_lb,
    )


def _load(request: LoadRequest) -> Loaded:
    started = time.perf_counter()
    loaded = load(request)
    log.info(
        "datapath loaded",
        adopted=loaded.adopted,
        replaced=len(loaded.replaced),
        cgroup=str(request.cgroup_root),
        took_ms=round((time.perf_counter() - started) * 1e3, 1),
    )
    for name, (pinned, configured) in loaded.kept_sizes.items():
        log.warning(
            "map keeps its size until `vipbee cleanup`",
            map=name,
            size=pinned,
            configured=configured,
        )
    return loaded


def node_name(config: AgentConfig) -> str:
    """--hostname-override, or the host's name in lower case as kubelet registers it."""
    return config.node_name or socket.gethostname().lower()


# Maps that have one entry per id of another one.
_SIZED_LIKE = {
    MapName.SERVICE_COUNTERS: "services",
    MapName.BACKEND_COUNTERS: "backends",
    MapName.CONNTRACK_OUTSIDE: "conntrack",
    MapName.CONNTRACK_POD: "conntrack",
    MapName.NAT_OUTSIDE: "conntrack",
    MapName.NAT_POD: "conntrack",
    MapName.CONNTRACK_NEW_OUTSIDE: "conntrack_new",
    MapName.CONNTRACK_NEW_POD: "conntrack_new",
    MapName.NAT_NEW_OUTSIDE: "conntrack_new",
    MapName.NAT_NEW_POD: "conntrack_new",
}


def _sizes(config: AgentConfig) -> dict[str, int]:
    sizes = config.map_sizes(_memory_bytes(), os.cpu_count() or 1)
    return {name: getattr(sizes, _SIZED_LIKE.get(MapName(name), name)) for name in SIZED_MAPS}


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextlib.asynccontextmanager
async def _stopped_by_signal() -> AsyncIterator[None]:
    """Leave the block quietly when SIGTERM or SIGINT arrives."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    except asyncio.CancelledError:
        if not stopping:
            raise
        task.uncancel()
