# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects in one line, for tests; fields are named as in the API."""

from __future__ import annotations

from typing import Any

import msgspec

from vipbee.model import EndpointSlice, Node, Service


def service(name: str = "web", *, labels: dict[str, str] | None = None, **spec: Any) -> Service:
    """A Service 10.96.0.10:80/TCP called default/web, but for what `spec` says.

    `created`, `namespace` and `ingress` go to metadata and status.
    """
    metadata = {"name": name, "namespace": spec.pop("namespace", "default"), "labels": labels}
    metadata["creationTimestamp"] = spec.pop("created", None)
    ingress = spec.pop("ingress", None)
    fields = {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]} | spec
    status = {"loadBalancer": {"ingress": ingress}} if ingress else None
    return msgspec.convert({"metadata": metadata, "spec": fields, "status": status}, Service)


def endpoint(address: str, **fields: Any) -> dict[str, Any]:
    """One endpoint; ready, serving, terminating are its conditions, zones and nodes its hints."""
    conditions = {k: fields.pop(k) for k in ("ready", "serving", "terminating") if k in fields}
    hints = {}
    if "zones" in fields:
        hints["forZones"] = [{"name": zone} for zone in fields.pop("zones")]
    if "nodes" in fields:
        hints["forNodes"] = [{"name": node} for node in fields.pop("nodes")]
    if "node" in fields:
        fields["nodeName"] = fields.pop("node")
    return {
        "addresses": [address],
        "conditions": conditions or None,
        "hints": hints or None,
    } | fields


def endpoint_slice(
    *endpoints: dict[str, Any] | str,
    name: str = "web-1",
    service: str | None = "web",
    namespace: str = "default",
    family: str = "IPv4",
    ports: list[dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
) -> EndpointSlice:
    """A slice of default/web with one unnamed port 8080/TCP; a text is a plain endpoint."""
    owner = {} if service is None else {"kubernetes.io/service-name": service}
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": namespace, "labels": owner | (labels or {})},
            "addressType": family,
            "ports": [{"name": "", "port": 8080}] if ports is None else ports,
            "endpoints": [endpoint(e) if isinstance(e, str) else e for e in endpoints],
        },
        EndpointSlice,
    )


def node(
    name: str, *, zone: str | None = None, addresses: tuple[tuple[str, str], ...] = ()
) -> Node:
    """A Node; `addresses` are (type, address) pairs."""
    return msgspec.convert(
        {
            "metadata": {
                "name": name,
                "labels": {"topology.kubernetes.io/zone": zone} if zone is not None else None,
            },
            "status": {"addresses": [{"type": t, "address": a} for t, a in addresses]},
        },
        Node,
    )
