# SPDX-License-Identifier: Apache-2.0
"""ServiceCIDRs, where an API server has them (R38)."""

from __future__ import annotations

import pytest

from tests.support.apiserver import KINDS, ApiServer
from tests.support.apiserver.objects import Kind
from tests.support.following import following, run

SERVICE_CIDRS = Kind("servicecidrs", "ServiceCIDR", "networking.k8s.io/v1", False)


def cidr_object(name: str, *cidrs: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


def test_they_are_listed_and_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, SERVICE_CIDRS.plural, SERVICE_CIDRS)

    async def scenario(server: ApiServer) -> None:
        server.objects.put("servicecidrs", cidr_object("kubernetes", "10.96.0.0/16"))
        async with following(server) as view:
            assert view.service_cidrs == {"kubernetes"}

            server.objects.put("servicecidrs", cidr_object("more", "10.112.0.0/16"))
            server.objects.delete("servicecidrs", "kubernetes")
            await view.until(lambda: view.service_cidrs == {"more"})

    run(scenario)


def test_api_server_without_them_is_no_trouble() -> None:
    """Before 1.33, or without the right to read them: nothing is reported, nothing waits."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            assert view.is_synced
            assert view.failures == {}
            assert view.service_cidrs == set()

    run(scenario)
