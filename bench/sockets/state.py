# SPDX-License-Identifier: Apache-2.0
"""Clusters of any size as a state file: Service i has the VIP 10.96.0.0 + i, port 80.

Every endpoint has an address of its own in 10.128.0.0/9, which a benchmark namespace
routes to itself, so that all of them answer. Service 0 is special: its one endpoint is
DIRECT, the address that the direct connections dial too.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

VIPS = "10.96.0.0"
ENDPOINTS = "10.128.0.0/9"
DIRECT = "10.244.1.1"
PORT = 8080

_FIRST_VIP = int(ipaddress.IPv4Address(VIPS))
_FIRST_ENDPOINT = int(ipaddress.IPv4Network(ENDPOINTS).network_address) + 1


def vip(number: int) -> str:
    return str(ipaddress.IPv4Address(_FIRST_VIP + number))


def service(number: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"bench-{number}", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vip(number),
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP"},
                *([{"name": "udp", "port": 53, "protocol": "UDP"}] if number == 0 else []),
            ],
        },
    }


def endpoint_slice(
    number: int, endpoints: int, *, first: int = 0, name: str = "1"
) -> dict[str, Any]:
    """A slice of Service `number` with that many ready endpoints, the first of its 16 first."""
    start = _FIRST_ENDPOINT + number * 16 + first
    addresses = [str(ipaddress.IPv4Address(start + i)) for i in range(endpoints)]
    if number == 0:
        addresses = [DIRECT]
    return {
        "metadata": {
            "name": f"bench-{number}-{name}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"bench-{number}"},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "tcp", "port": PORT, "protocol": "TCP"},
            {"name": "udp", "port": PORT, "protocol": "UDP"},
        ],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True}} for address in addresses
        ],
    }


def state_file(services: int, endpoints: int) -> bytes:
    """The whole cluster as JSON."""
    return msgspec.json.encode(
        {
            "services": [service(i) for i in range(services)],
            "endpoints": [endpoint_slice(i, endpoints) for i in range(services)],
        }
    )
