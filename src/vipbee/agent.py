# SPDX-License-Identifier: Apache-2.0
"""The node daemon: the one place where the parts are put together.

    source ──► Programming ──► Reconciler ──► KernelTables    one task follows the source
    audit, reclaim, addresses, devices, sweep, …              one small task each

All tasks live in one group: if one fails unexpectedly the process ends with a message
and is started again; the kernel forwards on meanwhile. Stopping changes nothing in the
kernel either; only `vipbee cleanup` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from vipbee.config import AgentConfig
from vipbee.core.change_log import ChangeLog
from vipbee.core.inherited import Inherited, inherited
from vipbee.core.lifetimes import Lifetimes
from vipbee.datapath import hooks, netns
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.errors import EnvironmentUnusable, KernelError
from vipbee.logs import get_log
from vipbee.model import Problem, ServiceName
from vipbee.node_ports import NodePortReservation
from vipbee.noticeboard import Noticeboard
from vipbee.observe.health import Health
from vipbee.observe.http import serve_health, serve_metrics
from vipbee.observe.metrics import AgentMetrics
from vipbee.observe.service_health import WILDCARDS, ServiceHealthServers, by_family
from vipbee.packet_layer import DeviceLists, start_packet_layer
from vipbee.privileged.requests import Started
from vipbee.privileged.split import Hands
from vipbee.programming import Programming
from vipbee.reconcile import NodeSettings, Reconciler
from vipbee.sources.files import Files
from vipbee.sources.kubernetes import KubernetesSource
from vipbee.sources.statefile import StateFileSource
from vipbee.startup import (
    check_source,
    load_datapath,
    make_event_recorder,
    make_source,
    node_name,
    size_problems,
)
from vipbee.stopping import stopped_by_signal
from vipbee.sweep import Sweep
from vipbee.sweep_tables import TableSweep
from vipbee.takeover.watch import Takeover

log = get_log()

RECLAIM_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 2.0


class Agent:
    """A loaded datapath and what keeps it up to date. Built by `run`."""

    def __init__(
        self,
        config: AgentConfig,
        hands: Hands,
        loaded: Started,
        tables: KernelTables,
        health: Health,
    ) -> None:
        privileges = hands.privileges
        self._config = config
        self._privileges = privileges
        self._adopted = loaded.adopted
        self.inherited = Inherited()
        self._layouts = load_layouts()
        self._tables = tables
        self._reconciler = Reconciler(
            tables,
            self._layouts,
            tables.capacity,
            NodeSettings(
                node_name(config),
                str(config.node_port_addresses),
                loaded.packet_lb,
                config.node_port_range,
                config.allowed,
                config.bind_address,
                config.service_cidrs,
            ),
            changes := ChangeLog(time.time()),
        )
        lists = DeviceLists(config.devices, config.pod_devices, config.pod_bridge)
        self.packet_layer = start_packet_layer(
            privileges, loaded, tables, lists, masquerade_all=config.masquerade_all
        )
        wanted = config.node_port_range if config.reserve_node_ports else None
        self._node_ports = NodePortReservation(privileges.reserve_ports, wanted)
        self._size_problems = size_problems(config)
        self._board = Noticeboard(
            tables, self._layouts, node_name=node_name(config), source=config.source
        )
        self._sweep: Sweep | None = None
        if (constants := hooks.read_config(privileges.maps, self._layouts)) is not None:
            fallback = TableSweep(tables, Lifetimes.of(constants))
            self._sweep = Sweep(privileges.sweeps, tables, fallback)
        self.health = health
        self.metrics = AgentMetrics(
            partial(KernelTables, privileges.maps, self._layouts),
            self.health,
            changes,
            top=config.metrics_per_service,
        )
        self._service_health = ServiceHealthServers(self.health)
        self._recorder = make_event_recorder(
            config, self._reconciler.find_uid, hands.files, self.metrics.requests
        )
        self._programming = Programming(
            self._reconciler,
            self._board,
            self.health,
            self.metrics,
            changes,
            release=privileges.release_sockets,
            elsewhere=self._problems,
            programmed=self._follow_services,
            announce=self._recorder.tell if self._recorder is not None else lambda problems: None,
        )
        self._takeover = Takeover(
            lambda: self._reconciler.serves_all, privileges.take_over, packet_lb=loaded.packet_lb
        )

    async def start(self) -> None:
        """Adopt what is pinned and note who we are; nothing else is written yet."""
        if self._adopted:
            self._tables.renew_address_filter()
            self.inherited = inherited(self._reconciler.adopt())
        self._reconciler.set_local_addresses(netns.local_addresses())
        self._board.write_card()
        self._node_ports.bring()
        await asyncio.to_thread(self.packet_layer.bring)

    @property
    def adopted_services(self) -> Collection[ServiceName]:
        return self._reconciler.adopted_services()

    async def follow_source(self, source: StateFileSource | KubernetesSource) -> None:
        """Program what the source says, from its first complete list on (R8)."""
        if isinstance(source, KubernetesSource):
            async for batch in source.watch():
                self._programming.take(batch)
        else:
            async for event in source.watch():
                self._programming.take([event])

    async def audit_regularly(self) -> None:
        """Repair what somebody else changed; sooner after a failed write (R130)."""
        while True:
            started = time.monotonic()
            while time.monotonic() - started < self._config.audit_interval_s:
                await asyncio.sleep(min(RETRY_INTERVAL_S, self._config.audit_interval_s))
                if self._restored_datapath() or self._reconciler.out_of_step:
                    break
            self._tables.renew_address_filter()  # a bit that was cleared hides a VIP
            self._node_ports.bring()
            self._programming.step("audit", self._reconciler.audit)

    async def reclaim_regularly(self) -> None:
        while True:
            await asyncio.sleep(RECLAIM_INTERVAL_S)
            self._programming.step("retried", self._reconciler.reclaim)

    async def follow_addresses(self) -> None:
        """NodePorts follow the addresses of the node."""
        async for _ in netns.address_changes():
            self._reconciler.set_local_addresses(netns.local_addresses())
            self._programming.step("addresses changed", self._reconciler.program)
            if self._sweep is not None:
                self._sweep.soon()

    async def follow_devices(self) -> None:
        """Keep the packet programs on the right devices."""
        await self.packet_layer.follow_devices(self._programming.tell_problems)

    async def sweep_regularly(self) -> None:
        """Forget connections that are over, once it is known which Services there are."""
        if self._sweep is not None:
            await self._sweep.sweep_regularly(lambda: self._reconciler.begun)

    async def serve_health_checks(self) -> None:
        """Answer load balancers that ask for Services with policy Local."""
        await self._service_health.serve(self._programming.tell_problems)

    async def record_events(self) -> None:
        """Tell the cluster what is wrong here, if there is a cluster."""
        if self._recorder is not None:
            await self._recorder.record()

    def _follow_services(self) -> None:
        self.packet_layer.set_service_cidrs(self._reconciler.service_cidrs())
        addresses: Mapping[int, Sequence[str]] = WILDCARDS
        if not self._config.node_port_addresses.is_primary:
            addresses = by_family(self._reconciler.node_port_addresses())
        self._service_health.follow(self._reconciler.health_checks(), addresses)

    def _problems(self) -> list[Problem]:
        return [
            *self._size_problems,
            *self.packet_layer.problems(),
            *self._node_ports.problems(),
            *self._service_health.problems(),
            *self._takeover.problems(),
        ]

    async def take_over(self) -> None:
        """Clear away what a kube-proxy left, once everything is served here."""
        await self._takeover.work(self._programming.tell_problems)

    def _restored_datapath(self) -> bool:
        """Attach and pin again what somebody took away; True if the tables need an audit (F57)."""
        try:
            if self._privileges.is_intact():
                return False
            replaced = self._privileges.load().replaced
            self._tables.open()
            self._tables.renew_address_filter()
        except (KernelError, EnvironmentUnusable, OSError) as error:
            log.error("hooks or pins were removed and cannot be restored", reason=str(error))
            return False
        log.warning("restored hooks or pins that somebody removed", programs=len(replaced))
        return True


async def run(config: AgentConfig, hands: Hands) -> None:
    """Load, attach, program and keep it so until SIGTERM or SIGINT. The caller holds the lock."""
    check_source(config, hands.files)  # what is wrong is said before anything is attached
    size_problems(config)
    health = Health(needs_node=config.state_file is None)
    # before anything is attached: a port that is taken often means kube-proxy runs
    async with serve_health(config.healthz_bind, health):
        loaded = load_datapath(hands.privileges)
        with KernelTables(hands.privileges.maps, load_layouts()) as tables:
            agent = Agent(config, hands, loaded, tables, health)
            await agent.start()
            await _work(config, agent, hands.files)
    log.info("stopped; forwarding goes on until `vipbee cleanup`")


async def _work(config: AgentConfig, agent: Agent, files: Files) -> None:
    source = make_source(
        config, agent.adopted_services, agent.inherited, files, agent.metrics.requests
    )
    metrics = serve_metrics(config.metrics_bind, agent.metrics.registry, agent.health)
    async with stopped_by_signal(), metrics, asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.follow_source(source), name="source")
        tasks.create_task(agent.audit_regularly(), name="audit")
        tasks.create_task(agent.reclaim_regularly(), name="reclaim")
        tasks.create_task(agent.follow_addresses(), name="addresses")
        tasks.create_task(agent.follow_devices(), name="devices")
        tasks.create_task(agent.sweep_regularly(), name="sweep")
        tasks.create_task(agent.serve_health_checks(), name="health checks")
        tasks.create_task(agent.record_events(), name="events")
        if config.takeover:
            tasks.create_task(agent.take_over(), name="takeover")
