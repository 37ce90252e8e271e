# SPDX-License-Identifier: Apache-2.0
"""What the tables of an earlier process tell a new one (F3, F17)."""

from __future__ import annotations

from tests.support.readings import ReadableTables, backend, frontend, service_port
from vipbee.core.inherited import Inherited, inherited
from vipbee.model import ServiceName


def test_services_with_endpoints_were_served() -> None:
    tables = ReadableTables()
    tables.program(
        service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2"),)),
        service_port("empty", frontend("10.96.0.11")),
    )

    assert inherited(tables.snapshot()) == Inherited(frozenset({ServiceName("default", "web")}))


def test_api_servers_are_those_behind_default_kubernetes() -> None:
    """F3: not the addresses of another Service of that name, nor of other Services."""
    tables = ReadableTables()
    servers = (backend("192.0.2.2", port=6443), backend("192.0.2.1", port=6443))
    six = (backend("2001:db8::1", port=6443),)
    tables.program(
        service_port("kubernetes", frontend("10.96.0.1", port=443), backends=servers),
        service_port("web", frontend("10.96.0.10"), backends=(backend("10.244.1.2"),)),
    )
    six_only = ReadableTables()
    six_only.program(service_port("kubernetes", frontend("fd00::1", port=443), backends=six))

    assert inherited(tables.snapshot()).api_servers == (
        "https://192.0.2.1:6443",
        "https://192.0.2.2:6443",
    )
    assert inherited(six_only.snapshot()).api_servers == ("https://[2001:db8::1]:6443",)


def test_empty_tables_leave_nothing() -> None:
    assert inherited(ReadableTables().snapshot()) == Inherited()
