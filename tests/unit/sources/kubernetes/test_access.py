# SPDX-License-Identifier: Apache-2.0
"""How the API server is reached: several addresses, kubeconfigs, counted requests: F3, F4.

As whom: test_credentials.py, test_tls.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.apiserver import Answer, ApiServer
from tests.support.certificates import Authority
from tests.support.following import FAST, endpoint_slice, following, run, service
from tests.support.kubeconfigs import (
    in_cluster_access,
    with_tls,
    write_kubeconfig,
)
from vipbee.core.request_counts import NO_ANSWER, ApiRequest, RequestCounts
from vipbee.errors import SourceError
from vipbee.sources.events import Failed
from vipbee.sources.kubernetes import Access, in_cluster, load_access

# ---- several addresses ------------------------------------------------------------------------


def test_addresses_are_tried_in_turn(tmp_path: Path) -> None:
    """F3: --master names several; those that do not answer cost one attempt each."""

    async def scenario(server: ApiServer) -> None:
        second = ApiServer(server.objects)
        async with second.running():
            file = write_kubeconfig(tmp_path / "config", "https://unused:6443")
            servers = ("http://127.0.0.1:1", server.url, second.url)
            async with following(server, access=lambda: load_access(file, servers)) as view:
                await server.crash()
                server.objects.put("services", service("b"))
                await view.until(lambda: view.services == {"a", "b"})

                assert second.requests
                await view.until(lambda: not view.failures)

    run(scenario)


def test_addresses_that_fail_for_a_day_are_reported_once_each(tmp_path: Path) -> None:
    """F4: not at every attempt."""

    async def scenario(server: ApiServer) -> None:
        file = write_kubeconfig(tmp_path / "config", "https://unused:6443")
        servers = ("http://127.0.0.1:1", server.url)
        await server.crash()
        async with following(
            access=lambda: load_access(file, servers), timing=FAST, synced=False
        ) as view:
            await view.until(lambda: len(view.failures) == 3)
            await asyncio.sleep(20 * FAST.backoff_last_s)

            services = [e for e in view.events if isinstance(e, Failed) and "services" in e.source]
            assert len(services) == 2

    run(scenario)


@pytest.mark.parametrize("name", ["DNS:localhost", "IP:127.0.0.1"])
def test_replicas_are_learned_and_must_prove_to_be_the_configured_server(
    tmp_path: Path, name: str
) -> None:
    """F3: the kubeconfig names one, default/kubernetes the other; only localhost is believed."""
    authority = Authority(tmp_path / "ca")
    genuine = authority.server_context(authority.issue("server", names="DNS:localhost"))
    other = authority.server_context(authority.issue("other", names=name))
    is_genuine = name == "DNS:localhost"

    async def scenario(server: ApiServer) -> None:
        second = ApiServer(server.objects)
        async with second.running(tls=other):
            item = endpoint_slice("kubernetes", "127.0.0.1")
            item["ports"] = [{"name": "https", "port": second.port}]
            server.objects.put("endpointslices", item)
            url = f"https://localhost:{server.port}"
            cluster = {"certificate-authority": str(authority.file)}
            file = write_kubeconfig(tmp_path / "config", url, {}, cluster)
            async with following(server, access=lambda: load_access(file)) as view:
                await server.crash()
                server.objects.put("services", service("b"))
                if is_genuine:
                    await view.until(lambda: view.services == {"a", "b"} and not view.failures)
                else:
                    await view.until(lambda: view.complained("certificate is not valid"))
                    assert second.requests == []

    with_tls(scenario, genuine)


def test_replicas_an_earlier_process_knew_are_tried_when_the_configured_one_is_down(
    tmp_path: Path,
) -> None:
    """F3: from the start, before anything was listed."""
    authority = Authority(tmp_path / "ca")
    genuine = authority.server_context(authority.issue("server", names="DNS:localhost"))

    async def scenario(server: ApiServer) -> None:
        url = f"https://localhost:{server.port}"
        cluster = {"certificate-authority": str(authority.file)}
        file = write_kubeconfig(tmp_path / "config", url, {}, cluster)
        second = ApiServer(server.objects)
        async with second.running(tls=genuine):
            await server.crash()
            known = [f"https://127.0.0.1:{second.port}"]
            async with following(access=lambda: load_access(file), replicas=known) as view:
                assert view.services == {"a"}

    with_tls(scenario, genuine)


# ---- what is read -----------------------------------------------------------------------------


def test_pod_finds_its_server(tmp_path: Path) -> None:
    """F3: by default at the ClusterIP, which the documentation advises against."""
    (tmp_path / "token").write_text("x")

    assert in_cluster_access(tmp_path).servers == ("https://10.96.0.1:443",)
    v6 = in_cluster_access(tmp_path, KUBERNETES_SERVICE_HOST="fd00::1")
    assert v6.servers == ("https://[fd00::1]:443",)
    assert in_cluster({}, tmp_path, ("https://10.0.0.1:6443",)).servers == (
        "https://10.0.0.1:6443",
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "object"),
        ("{}", "no current-context"),
        ("current-context: a", "no context 'a'"),
        ("current-context: a\ncontexts: [{name: a, context: {cluster: c}}]", "no cluster 'c'"),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://x'}}]",
            "no user 'u'",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n"
            "clusters: [{name: c, cluster: {server: x}}]",
            "https://HOST:PORT",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters:\n"
            "- {name: c, cluster: {server: 'https://x', certificate-authority-data: '§'}}",
            "not base64",
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://x'}}]\n"
            "users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1alpha1,"
            " command: x}}}]",
            "v1alpha1 is not supported",
        ),
        ("current-context: a\ncontexts: [", "line 2"),
    ],
)
def test_kubeconfig_that_is_wrong_is_refused_in_one_sentence(
    tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "config"
    file.write_text(content)

    with pytest.raises(SourceError) as refused:
        load_access(file)

    assert complaint in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    user = {"token": "hunter2", "username": "me", "password": "hunter2"}
    file = write_kubeconfig(tmp_path / "config", "https://x", user)

    assert "hunter2" not in repr(load_access(file))


# ---- what is counted --------------------------------------------------------------------------


def test_every_request_is_counted_by_server_and_answer() -> None:
    """R106, `rest_client_requests_total`: a refusal, a server that is down, lists and watches."""

    async def scenario(server: ApiServer) -> None:
        counts = RequestCounts()
        down = ApiServer()
        async with down.running():
            pass
        servers = (down.url, server.url)
        server.fail("services", "list", Answer(503))
        async with following(access=lambda: Access(servers=servers), counts=counts):
            pass
        alive, dead = (url.removeprefix("http://") for url in reversed(servers))

        assert counts[ApiRequest("503", alive, "GET")] == 1
        assert counts[ApiRequest(NO_ANSWER, dead, "GET")] >= 1
        assert counts[ApiRequest("200", alive, "GET")] >= 3

    run(scenario)
