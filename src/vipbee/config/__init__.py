# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration: defaults, file, flags, in this order of strength.

`--config FILE` is YAML or JSON: either a KubeProxyConfiguration (kubeproxy.py)
or our own, whose fields are the long flags without dashes in front, in kebab-case or
camelCase (`state-file` or `stateFile`), plus what has no flag:

    state-file: /etc/vipbee/services      kubeconfig: PATH, or in-cluster
    master: [https://10.0.0.1:6443]
    hostname-override: node-a             (or node-name)
    cgroup-root: /sys/fs/cgroup           bpf-root: /sys/fs/bpf/vipbee
    devices: [eth+]                       pod-devices: [veth+, cali+]
    detect-local-mode: BridgeInterface    pod-bridge-interface: cni0
    bind-address: 192.0.2.7               (or pod-interface-name-prefix, for mode …NamePrefix)
    cluster-cidr: [10.244.0.0/16]         # accepted, no effect
    nodeport-addresses: primary
    service-cluster-ip-range: [10.96.0.0/12]      # what is free of it drops (R38)
    healthz-bind-address: 0.0.0.0:10256   metrics-bind-address: ""    # disabled
    socket-lb: true                       bind-protection: false
    packet-lb: true                       map-sizes: {backends: 65536}
    nodeport-range: 30000-32767           (or service-node-port-range)
    reserve-node-ports: true              (or enable-auto-protect-node-port-range)
    snat-port-range: 32768-65535          cluster-ip-from-outside: false
    masquerade-all: false                 # of ClusterIP traffic only (R56)
    conntrack-tcp-timeout-established: 2h4m       conntrack-tcp-timeout-transitory: 4m
    conntrack-tcp-timeout-reset: 10s      conntrack-udp-timeout-stream: 2m
    audit-interval: 60s                   takeover: false             # of kube-proxy's rules
    external-ips: [198.51.100.0/24]       load-balancer-ips: true     # or false; true: any
    backend-cidrs: [10.0.0.0/8]           # default: any
    metrics-per-service: 100              kubernetes-events: true
    log-format: text                      log-level: info
    user: vipbee                          privileged: false
    mass-delete-guard: {share: 0.5, minimum: 20, hold: 5m}            # or false

Reads the one file it is given and nothing else: what this machine is like (host
name, memory, cgroup root) is found out by the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vipbee.config import kubeproxy, local_pods, packets, values
from vipbee.config.map_sizes import MapSizes
from vipbee.config.values import PRIMARY, BindAddress, Cidr, LogFormat, LogLevel, NodePortAddresses
from vipbee.core.allowed_addresses import EVERY_ADDRESS, AllowedAddresses, Networks
from vipbee.core.lifetimes import Lifetimes
from vipbee.core.port_ranges import NODE_PORTS, PortRange
from vipbee.errors import SourceError, UsageError
from vipbee.sources.yaml_loader import load_document

__all__ = [
    "IN_CLUSTER",
    "AgentConfig",
    "BindAddress",
    "Cidr",
    "MapSizes",
    "NodePortAddresses",
    "load_config",
]

IN_CLUSTER = Path("in-cluster")
DEFAULT_BPF_ROOT = Path("/sys/fs/bpf/vipbee")
DEFAULT_HEALTHZ = BindAddress("0.0.0.0", 10256)
DEFAULT_METRICS = BindAddress("127.0.0.1", 10249)

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Exactly one of `kubeconfig` and `state_file` is set; None elsewhere means "find out"."""

    kubeconfig: Path | None = None  # IN_CLUSTER: the ServiceAccount of this pod
    api_servers: tuple[str, ...] = ()  # instead of the kubeconfig's, tried in turn
    state_file: Path | None = None
    node_name: str | None = None
    cgroup_root: Path | None = None
    bpf_root: Path = DEFAULT_BPF_ROOT
    devices: tuple[str, ...] = ()  # empty: found by itself
    pod_devices: tuple[str, ...] = ()
    pod_bridge: str = ""  # its ports are pods' devices
    bind_address: bytes | None = None  # the node's primary address of its family (R90)
    service_cidrs: tuple[Cidr, ...] = ()  # and those of the API server (R38)
    node_port_addresses: NodePortAddresses = PRIMARY
    healthz_bind: BindAddress | None = DEFAULT_HEALTHZ  # None: disabled
    metrics_bind: BindAddress | None = DEFAULT_METRICS
    socket_lb: bool = True
    packet_lb: bool = True
    node_port_range: PortRange = NODE_PORTS
    reserve_node_ports: bool = True  # in ip_local_reserved_ports (D107)
    snat_port_range: PortRange | None = None  # beside the NodePorts
    cluster_ip_from_outside: bool = False  # (R42)
    masquerade_all: bool = False  # (R56)
    tcp_established_s: int = Lifetimes().established_s
    tcp_transitory_s: int = Lifetimes().transitory_s
    tcp_reset_s: int = Lifetimes().reset_s
    udp_s: int = Lifetimes().udp_s
    bind_protection: bool = False  # off as in kube-proxy (R93)
    takeover: bool = False
    external_ips: Networks = EVERY_ADDRESS
    load_balancer_ips: Networks = EVERY_ADDRESS
    backends: Networks = EVERY_ADDRESS
    audit_interval_s: float = 60.0
    kubernetes_events: bool = True
    metrics_per_service: int = 100  # Services, and backends, with series of their own
    mass_delete_guard: Mapping[str, float] = field(default_factory=dict)  # (F17)
    map_size_overrides: Mapping[str, int] = field(default_factory=dict)
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    user: str | None = None  # who the agent becomes; None: found by itself
    privileged: bool = False  # keep all rights in one process

    @property
    def allowed(self) -> AllowedAddresses:
        return AllowedAddresses(self.external_ips, self.load_balancer_ips, self.backends)

    @property
    def source(self) -> str:
        """Where Services come from, for people."""
        return str(self.state_file or self.kubeconfig)

    @property
    def packet_constants(self) -> Mapping[str, int]:
        """Members of `struct config` that the operator decides."""
        return packets.constants(
            lifetimes=Lifetimes(
                self.tcp_established_s, self.tcp_transitory_s, self.tcp_reset_s, self.udp_s
            ),
            node_ports=self.node_port_range,
            source_ports=self.snat_port_range,
            cluster_ip_from_outside=self.cluster_ip_from_outside,
            masquerade_all=self.masquerade_all,
        )

    def map_sizes(self, total_memory_bytes: int, cpus: int = 1) -> MapSizes:
        """Sizes for a machine with this much memory, and what the operator set."""
        return MapSizes.for_memory(total_memory_bytes, cpus).with_overrides(self.map_size_overrides)


# Option → field of AgentConfig and reader of its value.
_OPTIONS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "kubeconfig": ("kubeconfig", values.path),
    "master": ("api_servers", values.urls),
    "state-file": ("state_file", values.path),
    "hostname-override": ("node_name", values.node_name),
    "node-name": ("node_name", values.node_name),
    "cgroup-root": ("cgroup_root", values.absolute_path),
    "bpf-root": ("bpf_root", values.absolute_path),
    "devices": ("devices", values.devices),
    "detect-local-mode": ("detect_local_mode", local_pods.mode),
    "pod-bridge-interface": ("pod_bridge", values.device),
    "pod-interface-name-prefix": ("pod_prefix", values.device),
    "bind-address": ("bind_address", values.node_address),
    "pod-devices": ("pod_devices", values.devices),
    "cluster-cidr": ("cluster_cidrs", values.cidrs),
    "service-cluster-ip-range": ("service_cidrs", values.cidrs),
    "nodeport-addresses": ("node_port_addresses", values.node_port_addresses),
    "healthz-bind-address": (
        "healthz_bind",
        partial(values.bind_address, default_port=DEFAULT_HEALTHZ.port),
    ),
    "metrics-bind-address": (
        "metrics_bind",
        partial(values.bind_address, default_port=DEFAULT_METRICS.port),
    ),
    "socket-lb": ("socket_lb", values.boolean),
    "packet-lb": ("packet_lb", values.boolean),
    "nodeport-range": ("node_port_range", packets.port_range),
    "service-node-port-range": ("node_port_range", packets.port_range),
    "reserve-node-ports": ("reserve_node_ports", values.boolean),
    "enable-auto-protect-node-port-range": ("reserve_node_ports", values.boolean),
    "snat-port-range": ("snat_port_range", packets.port_range),
    "cluster-ip-from-outside": ("cluster_ip_from_outside", values.boolean),
    "bpf-lb-external-clusterip": ("cluster_ip_from_outside", values.boolean),
    "masquerade-all": ("masquerade_all", values.boolean),
    "conntrack-tcp-timeout-established": ("tcp_established_s", packets.lifetime),
    "conntrack-tcp-timeout-transitory": ("tcp_transitory_s", packets.lifetime),
    "conntrack-tcp-timeout-reset": ("tcp_reset_s", packets.lifetime),
    "conntrack-udp-timeout-stream": ("udp_s", packets.lifetime),
    "bind-protection": ("bind_protection", values.boolean),
    "takeover": ("takeover", values.boolean),
    "external-ips": ("external_ips", values.networks),
    "load-balancer-ips": ("load_balancer_ips", values.networks),
    "backend-cidrs": ("backends", values.networks),
    "kubernetes-events": ("kubernetes_events", values.boolean),
    "metrics-per-service": ("metrics_per_service", values.count),
    "audit-interval": ("audit_interval_s", values.seconds),
    "mass-delete-guard": ("mass_delete_guard", values.mass_delete_guard),
    "map-sizes": ("map_size_overrides", values.map_sizes),
    "log-format": ("log_format", values.log_format),
    "log-level": ("log_level", values.log_level),
    "user": ("user", values.text_or_number),
    "privileged": ("privileged", values.boolean),
}
_BY_SPELLING = {option.replace("-", ""): option for option in _OPTIONS}
_SOURCES = ("kubeconfig", "state_file")


def load_config(
    path: Path | None, flags: Mapping[str, object]
) -> tuple[AgentConfig, tuple[str, ...]]:
    """Return the configuration and warnings, one sentence each; raise UsageError.

    `flags` holds what the command line gave, by option name in any spelling
    (`state_file`, `state-file`); None is "not given". Values are text, Path or bool.
    """
    from_flags = _read({name: value for name, value in flags.items() if value is not None}, "--")
    from_file: dict[str, Any] = {}
    warnings: list[str] = []
    if path is not None:
        document = _read_file(path)
        if kubeproxy.is_kube_proxy(document):
            document, warnings = kubeproxy.translate(document, str(path))
        from_file = _read(document, f"{path}: ")
    if not from_file.keys().isdisjoint(_SOURCES) and not from_flags.keys().isdisjoint(_SOURCES):
        for name in from_file.keys() & set(_SOURCES) - from_flags.keys():
            option = name.replace("_", "-")
            warnings.append(f"{path}: {option} is ignored: the command line names another source")
            del from_file[name]
    settings, more = local_pods.apply_mode(from_file | from_flags)
    warnings += more
    _check_source(settings)
    packets.check_ports(
        settings.get("node_port_range", NODE_PORTS), settings.get("snat_port_range")
    )
    config = AgentConfig(**settings)
    packets.check_masquerade(masquerade_all=config.masquerade_all, packet_lb=config.packet_lb)
    return config, tuple(warnings)


def _check_source(settings: Mapping[str, Any]) -> None:
    given = [name for name in _SOURCES if name in settings]
    if not given:
        raise UsageError("say where Services come from: --state-file PATH or --kubeconfig PATH")
    if len(given) > 1:
        raise UsageError("give either --state-file or --kubeconfig, not both")


def _read(given: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Fields of AgentConfig from options in any spelling; `origin` goes before their names."""
    settings: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in given.items():
        option = _BY_SPELLING.get(name.replace("-", "").replace("_", "").lower())
        if option is None:
            raise UsageError(f"{origin}{name} is no option of the agent")
        if value is None:
            continue  # YAML: a key without value
        target, reader = _OPTIONS[option]
        if target in spelled:
            raise UsageError(f"{origin}{name} and {spelled[target]} say the same: give one")
        spelled[target] = name
        settings[target] = reader(f"{origin}{option if origin == '--' else name}", value)
    return settings


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as opened:
            data = opened.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise UsageError(f"--config {path} is larger than 1 MiB: is it the right file?")
        document = load_document(data, source=str(path))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from None
    except SourceError as error:
        raise UsageError(f"--config {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"--config {path}: want a mapping of options")
    return document
