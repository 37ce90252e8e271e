# SPDX-License-Identifier: Apache-2.0
"""Service objects as a user writes them, for labs; what a test does not name is usual."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

ECHO_PORTS = (
    {"name": "echo", "port": 7000},
    {"name": "echo-udp", "port": 7000, "protocol": "UDP"},
)


def echo_service(name: str, vip: str | None, *more_vips: str, **spec: Any) -> Manifest:
    """TCP and UDP port 7000 of the pods with `app: web`; `spec` overrides any field."""
    addresses = {} if vip is None else {"clusterIPs": [vip, *more_vips]}
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            **addresses,
            "selector": {"app": "web"},
            "ports": [dict(port) for port in ECHO_PORTS],
            **spec,
        },
    }


def echo_slice(service: str, *addresses: str, port: int = 7000, **endpoint: Any) -> Manifest:
    """Endpoints of a Service without selector; `endpoint` are further fields of each."""
    family = 6 if ":" in addresses[0] else 4
    return {
        "metadata": {
            "namespace": "default",
            "name": f"{service}-{family}",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": f"IPv{family}",
        "ports": [{**item, "port": port} for item in ECHO_PORTS],
        "endpoints": [{"addresses": [address], **endpoint} for address in addresses],
    }
