# SPDX-License-Identifier: Apache-2.0
"""The lab's endpoint controller: Services + pods → a state file in Kubernetes' shapes.

Plays what the API server and the EndpointSlice controller do in a cluster: selects
pods by `app`, resolves `targetPort`, writes one slice a Service and family. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from vipbee.lab.blueprint import Blueprint, NodePlan, PlacePlan

Manifest = dict[str, Any]
"""An object as YAML would give it."""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """Conditions of one pod's endpoints; `present=False`: not in any slice."""

    ready: bool = True
    serving: bool = True
    terminating: bool = False
    present: bool = True


READY = EndpointState()


def render_state(
    blueprint: Blueprint,
    services: Sequence[Manifest],
    states: Mapping[str, EndpointState],
) -> Manifest:
    """Return the whole state file. `states`: pod name → its conditions; absent means ready."""
    zones = {node.place.name: node.zone for node in blueprint.nodes}
    return {
        "services": [_service(service) for service in services],
        "endpoints": [
            slice_
            for service in services
            for slice_ in _slices(service, blueprint.pods, states, zones)
        ],
        "nodes": [_node(node) for node in blueprint.nodes],
    }


def dns_records(services: Iterable[Manifest]) -> dict[str, tuple[str, ...]]:
    """`<service>.<namespace>.svc.cluster.local` → its ClusterIPs."""
    return {
        f"{service['metadata']['name']}.{_namespace(service)}.svc.cluster.local": addresses
        for service in services
        if (addresses := tuple(cluster_ips(service["spec"])))
    }


def cluster_ips(spec: Manifest) -> list[str]:
    """Every ClusterIP of a Service; empty for headless ones."""
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP", "")]
    return [address for address in addresses if address not in ("", "None")]


def families(spec: Manifest) -> list[int]:
    """The address families of a Service, 4 and 6: as declared, else of its ClusterIPs."""
    if declared := spec.get("ipFamilies"):
        return [6 if family == "IPv6" else 4 for family in declared]
    found = dict.fromkeys(ip_address(address).version for address in cluster_ips(spec))
    return list(found) or [4]


def _namespace(service: Manifest) -> str:
    return str(service["metadata"].get("namespace", "default"))


def _service(service: Manifest) -> Manifest:
    """Fill in what the API server would."""
    spec, addresses = service["spec"], cluster_ips(service["spec"])
    metadata = {"namespace": "default", **service["metadata"]}
    if addresses:
        spec = {
            "type": "ClusterIP",
            "ipFamilies": [f"IPv{family}" for family in families(spec)],
            **spec,
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
        }
    return {"apiVersion": "v1", "kind": "Service", **service, "metadata": metadata, "spec": spec}


def _slices(
    service: Manifest,
    pods: Iterable[PlacePlan],
    states: Mapping[str, EndpointState],
    zones: Mapping[str, str],
) -> list[Manifest]:
    spec, name = service["spec"], service["metadata"]["name"]
    app = (spec.get("selector") or {}).get("app")
    if not app:
        return []
    present = [
        (pod, states.get(pod.name, READY))
        for pod in pods
        if pod.app == app and states.get(pod.name, READY).present
    ]
    ports = [
        {
            "name": port.get("name", ""),
            "port": int(port.get("targetPort", port["port"])),
            "protocol": port.get("protocol", "TCP"),
        }
        for port in spec.get("ports") or []
    ]
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": _namespace(service),
                "name": f"{name}-ipv{family}",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": f"IPv{family}",
            "ports": ports,
            "endpoints": [_endpoint(pod, state, family, zones) for pod, state in present],
        }
        for family in families(spec)
    ]


def _endpoint(
    pod: PlacePlan, state: EndpointState, family: int, zones: Mapping[str, str]
) -> Manifest:
    endpoint: Manifest = {
        "addresses": [str(pod.ipv4 if family == 4 else pod.ipv6)],
        "conditions": {
            "ready": state.ready,
            "serving": state.serving,
            "terminating": state.terminating,
        },
        "nodeName": pod.node,
        "targetRef": {"kind": "Pod", "name": pod.name},
    }
    if zones.get(pod.node):
        endpoint["zone"] = zones[pod.node]
    return endpoint


def _node(node: NodePlan) -> Manifest:
    labels = {"kubernetes.io/hostname": node.place.name}
    if node.zone:
        labels["topology.kubernetes.io/zone"] = node.zone
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.place.name, "labels": labels},
        "spec": {"podCIDRs": [str(node.pod_ipv4), str(node.pod_ipv6)]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": str(node.place.ipv4)},
                {"type": "InternalIP", "address": str(node.place.ipv6)},
                {"type": "Hostname", "address": node.place.name},
            ]
        },
    }
