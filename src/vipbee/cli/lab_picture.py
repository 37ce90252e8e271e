# SPDX-License-Identifier: Apache-2.0
"""A lab as a picture for people: one panel a node, its pods and addresses inside."""

from __future__ import annotations

from rich.box import ROUNDED
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vipbee.lab import Lab
from vipbee.lab.blueprint import NodePlan
from vipbee.lab.endpoints import Manifest, cluster_ips


def draw_lab(lab: Lab) -> RenderableType:
    """Nodes side by side, then the Services."""
    panels = Columns([_draw_node(node) for node in lab.blueprint.nodes], padding=(0, 1))
    return Group(panels, _draw_services(lab.services)) if lab.services else panels


def _draw_node(node: NodePlan) -> Panel:
    table = Table.grid(padding=(0, 2))
    for pod in node.pods:
        servers = " ".join(kind for kind, _ in pod.servers)
        table.add_row(
            Text(pod.name, style="bold"),
            Text(servers or "client", style="green" if servers else "dim"),
            Text(str(pod.ipv4)),
            Text(str(pod.ipv6), style="dim"),
        )
    title = f"[bold cyan]{node.place.name}[/]  {node.place.ipv4}"
    return Panel(table, title=title, title_align="left", box=ROUNDED, expand=False)


def _draw_services(services: list[Manifest]) -> Table:
    table = Table("SERVICE", "TYPE", "CLUSTER-IPS", "PORTS", box=None, pad_edge=False)
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        table.add_row(
            f"{metadata.get('namespace', 'default')}/{metadata['name']}",
            str(spec.get("type", "ClusterIP")),
            ", ".join(cluster_ips(spec)) or "None",
            ", ".join(_port(port) for port in spec.get("ports") or []),
        )
    return table


def _port(port: Manifest) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}"
