# SPDX-License-Identifier: Apache-2.0
"""`vipbee agent`: the command line of the node daemon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vipbee.config import AgentConfig
    from vipbee.privileged.split import Hands


def agent(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Options in a file, or a KubeProxyConfiguration."),
    ] = None,
    kubeconfig: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A Kubernetes API server; `in-cluster` for the ServiceAccount of this pod.",
            rich_help_panel="Services",
        ),
    ] = None,
    master: Annotated[
        str | None,
        typer.Option(
            metavar="URL[,URL]",
            help="API servers to try in turn, in place of the kubeconfig's.",
            rich_help_panel="Services",
        ),
    ] = None,
    state_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A YAML or JSON file, or a directory of them; no Kubernetes needed.",
            rich_help_panel="Services",
        ),
    ] = None,
    hostname_override: Annotated[
        str | None,
        typer.Option(
            "--hostname-override",
            "--node-name",
            metavar="NAME",
            help="Node name; default: the host name.",
        ),
    ] = None,
    cgroup_root: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="cgroup v2 directory to attach to; default: the host's root, found by itself.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    bpf_root: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="bpffs directory for pins; default: /sys/fs/bpf/vipbee.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Uplink devices, `eth+` wildcards; default: found by itself.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    pod_devices: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Host-side pod devices, `veth+,cali+`; default: found by itself.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    detect_local_mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="BridgeInterface or InterfaceNamePrefix: how pods' devices are told.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    pod_bridge_interface: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For mode BridgeInterface: its ports are pods' devices.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    pod_interface_name_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="For mode InterfaceNamePrefix: how names of pods' devices begin.",
            rich_help_panel="Where to attach",
        ),
    ] = None,
    bind_address: Annotated[
        str | None,
        typer.Option(metavar="IP", help="The node's primary address; default: the Node's."),
    ] = None,
    cluster_cidr: Annotated[
        str | None,
        typer.Option(metavar="CIDR[,CIDR]", help="What counts as pod traffic."),
    ] = None,
    service_cluster_ip_range: Annotated[
        str | None,
        typer.Option(
            metavar="CIDR[,CIDR]",
            help="Where ClusterIPs come from; packets to free ones are dropped.",
            rich_help_panel="Packets",
        ),
    ] = None,
    nodeport_addresses: Annotated[
        str | None,
        typer.Option(
            metavar="primary|CIDR,…", help="Where NodePorts are served; default: primary."
        ),
    ] = None,
    healthz_bind_address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help='Default: 0.0.0.0:10256; "" disables.'),
    ] = None,
    metrics_bind_address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help='Default: 127.0.0.1:10249; "" disables.'),
    ] = None,
    socket_lb: Annotated[
        bool | None,
        typer.Option(
            "--socket-lb/--no-socket-lb",
            help="Choose backends when sockets connect; default: on.",
        ),
    ] = None,
    packet_lb: Annotated[
        bool | None,
        typer.Option(
            "--packet-lb/--no-packet-lb",
            help="Serve packets on devices: clients outside, VMs, sandboxed pods; default: on.",
        ),
    ] = None,
    nodeport_range: Annotated[
        str | None,
        typer.Option(
            "--nodeport-range",
            "--service-node-port-range",
            metavar="FIRST-LAST",
            help="The API server's range of NodePorts; default: 30000-32767.",
        ),
    ] = None,
    reserve_node_ports: Annotated[
        bool | None,
        typer.Option(
            "--reserve-node-ports/--no-reserve-node-ports",
            "--enable-auto-protect-node-port-range",
            help="Keep NodePorts out of the ports the node's connections start from; default: on.",
        ),
    ] = None,
    bpf_lb_external_clusterip: Annotated[
        bool | None,
        typer.Option(
            "--bpf-lb-external-clusterip/--no-bpf-lb-external-clusterip",
            help="Serve ClusterIPs to clients outside as well; default: off.",
            rich_help_panel="Packets",
        ),
    ] = None,
    conntrack_tcp_timeout_established: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Idle TCP connections are remembered so long; default: 2h4m.",
            rich_help_panel="Packets",
        ),
    ] = None,
    conntrack_udp_timeout_stream: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Idle UDP flows are remembered so long; default: 2m.",
            rich_help_panel="Packets",
        ),
    ] = None,
    takeover: Annotated[
        bool | None,
        typer.Option(
            "--takeover",
            help="Remove the rules kube-proxy left, once Services are served here.",
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|UID",
            help="Who the agent becomes, without any right; default: vipbee, or a free number.",
            rich_help_panel="Rights",
        ),
    ] = None,
    privileged: Annotated[
        bool | None,
        typer.Option(
            "--privileged",
            help="Keep all rights in one process, without a helper.",
            rich_help_panel="Rights",
        ),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="text|json", help="Default: text.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="Default: info.")] = None,
) -> None:
    """Keep this node's kernel equal to what the Services say.

    Runs until SIGTERM. Stopping it, however hard, changes nothing in the kernel: `vipbee
    cleanup` does.
    """
    from vipbee.config import load_config
    from vipbee.privileged.split import split

    flags: dict[str, object] = {
        "kubeconfig": kubeconfig,
        "master": master,
        "state-file": state_file,
        "hostname-override": hostname_override,
        "cgroup-root": cgroup_root,
        "bpf-root": bpf_root,
        "devices": devices,
        "pod-devices": pod_devices,
        "detect-local-mode": detect_local_mode,
        "pod-bridge-interface": pod_bridge_interface,
        "pod-interface-name-prefix": pod_interface_name_prefix,
        "bind-address": bind_address,
        "cluster-cidr": cluster_cidr,
        "service-cluster-ip-range": service_cluster_ip_range,
        "nodeport-addresses": nodeport_addresses,
        "healthz-bind-address": healthz_bind_address,
        "metrics-bind-address": metrics_bind_address,
        "socket-lb": socket_lb,
        "packet-lb": packet_lb,
        "nodeport-range": nodeport_range,
        "reserve-node-ports": reserve_node_ports,
        "cluster-ip-from-outside": bpf_lb_external_clusterip,
        "conntrack-tcp-timeout-established": conntrack_tcp_timeout_established,
        "conntrack-udp-timeout-stream": conntrack_udp_timeout_stream,
        "takeover": takeover,
        "user": user,
        "privileged": privileged,
        "log-format": log_format,
        "log-level": log_level,
    }
    settings, warnings = load_config(config, flags)
    with split(settings) as hands:  # before all that is heavy: the helper stays small
        run_agent(settings, warnings, hands)


def run_agent(settings: AgentConfig, warnings: Sequence[str], hands: Hands) -> None:
    """Import what the agent is made of, give up rights, run."""
    import asyncio

    import structlog

    from vipbee.agent import run
    from vipbee.cli.logs import configure_logs
    from vipbee.preload import preload
    from vipbee.takeover.watch import refuse_beside_kube_proxy

    configure_logs(settings.log_format, settings.log_level)
    if not settings.takeover:
        refuse_beside_kube_proxy()
    preload()
    hands.give_up_rights()
    log = structlog.get_logger()
    for warning in warnings:
        log.warning("configuration", reason=warning)
    if hands.why_privileged:
        log.warning("rights", reason=hands.why_privileged)
    asyncio.run(run(settings, hands))
