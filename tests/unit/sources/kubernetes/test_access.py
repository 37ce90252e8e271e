# SPDX-License-Identifier: Apache-2.0
"""How the API server is reached and as whom: F3, F12, several addresses, every credential."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.apiserver import Answer, ApiServer
from tests.support.certificates import Authority
from tests.support.following import FAST, endpoint_slice, following, run, service
from vipbee.core.request_counts import NO_ANSWER, ApiRequest, RequestCounts
from vipbee.errors import SourceError
from vipbee.sources.events import Failed
from vipbee.sources.kubernetes import Access, credentials, in_cluster, load_access

Scenario = Callable[[ApiServer], Coroutine[Any, Any, None]]


def write_kubeconfig(
    path: Path,
    server: str,
    user: Mapping[str, Any] | None = None,
    cluster: Mapping[str, Any] | None = None,
) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": dict(user or {})}],
        "contexts": [
            {"name": "other", "context": {"cluster": "nowhere", "user": "nobody"}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
    }
    path.write_text(json.dumps(content))
    return path


def write_plugin(path: Path, status: Mapping[str, Any], version: str = "v1") -> Path:
    """A program that counts its runs in PATH.runs, keeps what it was told, prints `status`."""
    answer = {
        "kind": "ExecCredential",
        "apiVersion": f"client.authentication.k8s.io/{version}",
        "status": status,
    }
    path.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"open({str(path)!r} + '.runs', 'a').write(os.environ['KUBERNETES_EXEC_INFO'] + '\\n')\n"
        f"assert sys.argv[1:] == ['get-token'] and os.environ['EXTRA'] == 'yes'\n"
        f"print({json.dumps(answer)!r})\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def runs(plugin: Path) -> list[dict[str, Any]]:
    file = plugin.with_name(plugin.name + ".runs")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def exec_user(plugin: Path, version: str = "v1") -> dict[str, Any]:
    return {
        "exec": {
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "command": f"./{plugin.name}",
            "args": ["get-token"],
            "env": [{"name": "EXTRA", "value": "yes"}],
            "interactiveMode": "Never",
            "provideClusterInfo": True,
        }
    }


# ---- tokens ---------------------------------------------------------------------------------


def test_token_of_the_kubeconfig_is_sent(tmp_path: Path) -> None:
    async def scenario(server: ApiServer) -> None:
        server.tokens = {"secret"}
        file = write_kubeconfig(tmp_path / "config", server.url, {"token": "secret"})
        async with following(server, access=lambda: load_access(file)) as view:
            assert view.services == {"a"}

    run(scenario)


def test_rotated_token_file_is_read_again_when_refused(tmp_path: Path) -> None:
    """F12: 401 in the middle of a watch's life; the file lies beside the kubeconfig."""
    token = tmp_path / "token"
    token.write_text("old\n")

    async def scenario(server: ApiServer) -> None:
        server.tokens = {"old"}
        file = write_kubeconfig(tmp_path / "config", server.url, {"tokenFile": "token"})
        async with following(server, access=lambda: load_access(file)) as view:
            server.tokens = {"new"}
            token.write_text("new\n")
            server.break_connections()
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})

            assert view.lists() == 1

    run(scenario)


def test_token_file_is_read_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F12: before the old one is refused, as the kubelet rotates early."""
    monkeypatch.setattr(credentials, "TOKEN_FILE_AGE_S", 0)
    token = tmp_path / "token"
    token.write_text("old")
    known = credentials.Credentials(in_cluster_access(tmp_path))

    first = asyncio.run(known.header())
    token.write_text("new")

    assert first == "Bearer old"
    assert asyncio.run(known.header()) == "Bearer new"


def in_cluster_access(account: Path, **environment: str) -> Access:
    names = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    return in_cluster(names | environment, account)


def test_refused_token_is_reported_and_state_stays(tmp_path: Path) -> None:
    """F12."""
    file = tmp_path / "config"

    async def scenario(server: ApiServer) -> None:
        server.tokens = {"good"}
        write_kubeconfig(file, server.url, {"token": "good"})
        async with following(server, access=lambda: load_access(file)) as view:
            server.tokens = {"better"}
            server.break_connections()
            await view.until(lambda: "401" in view.failures.get("API server: services", ""))
            assert view.services == {"a"}

            write_kubeconfig(file, server.url, {"token": "better"})
            await view.until(lambda: not view.failures)

    run(scenario)


# ---- exec plugins -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_exec_plugin_gives_the_token(tmp_path: Path, version: str) -> None:
    """It is run once for all connections, and told about the cluster."""
    plugin = write_plugin(tmp_path / "plugin", {"token": "made"}, version)

    async def scenario(server: ApiServer) -> None:
        server.tokens = {"made"}
        file = write_kubeconfig(tmp_path / "config", server.url, exec_user(plugin, version))
        async with following(server, access=lambda: load_access(file)) as view:
            assert view.services == {"a"}

        [told] = runs(plugin)
        assert told["apiVersion"] == f"client.authentication.k8s.io/{version}"
        assert told["spec"] == {"interactive": False, "cluster": {"server": server.url}}

    run(scenario)


def test_exec_plugin_is_run_again_when_its_token_is_refused_or_over(tmp_path: Path) -> None:
    """F12."""
    plugin = write_plugin(tmp_path / "plugin", {"token": "first"})
    soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()

    async def scenario(server: ApiServer) -> None:
        server.tokens = {"first"}
        file = write_kubeconfig(tmp_path / "config", server.url, exec_user(plugin))
        async with following(server, access=lambda: load_access(file)) as view:
            write_plugin(plugin, {"token": "second", "expirationTimestamp": soon})
            server.tokens = {"second"}
            server.break_connections()
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})

            write_plugin(plugin, {"token": "third"})
            server.tokens = {"second", "third"}
            server.break_connections()
            await view.until(lambda: server.requests[-1].authorization == "Bearer third")

    run(scenario)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("#!/bin/sh\necho no luck >&2; exit 3\n", "ended with 3: no luck"),
        ("#!/bin/sh\necho hello\n", "printed no ExecCredential"),
        ('#!/bin/sh\necho \'{"kind":"X","apiVersion":"y"}\'\n', "printed X of y"),
        (None, "No such file or directory"),
    ],
)
def test_exec_plugin_that_fails_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    """F12: one sentence; tried again later."""
    plugin = tmp_path / "plugin"
    if text is not None:
        plugin.write_text(text)
        plugin.chmod(0o700)

    async def scenario(server: ApiServer) -> None:
        file = write_kubeconfig(tmp_path / "config", server.url, exec_user(plugin))
        async with following(server, access=lambda: load_access(file), synced=False) as view:
            await view.until(lambda: complaint in view.failures.get("API server: services", ""))
            assert str(plugin) in view.failures["API server: services"]

    run(scenario)


# ---- TLS --------------------------------------------------------------------------------------


def with_tls(scenario: Scenario, server_tls: Any) -> None:
    async def serve(server: ApiServer) -> None:
        await server.crash()
        await server.start(port=0, tls=server_tls)
        await scenario(server)

    run(serve)


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.mark.parametrize("is_inline", [True, False])
def test_client_certificate_proves_who_we_are(tmp_path: Path, is_inline: bool) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("client")
    if is_inline:
        user = {
            "client-certificate-data": data(pair.certificate),
            "client-key-data": data(pair.key),
        }
        cluster = {"certificate-authority-data": data(authority.file)}
    else:
        user = {"client-certificate": "ca/client.crt", "client-key": "ca/client.key"}
        cluster = {"certificate-authority": "ca/ca.crt"}

    async def scenario(server: ApiServer) -> None:
        file = write_kubeconfig(tmp_path / "config", server.url, user, cluster)
        async with following(server, access=lambda: load_access(file)) as view:
            assert view.services == {"a"}

    with_tls(scenario, authority.server_context(authority.issue("server"), wants_client=True))


def test_client_certificate_may_come_from_a_plugin(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("client")
    status = {
        "clientCertificateData": pair.certificate.read_text(),
        "clientKeyData": pair.key.read_text(),
    }
    plugin = write_plugin(tmp_path / "plugin", status)
    cluster = {"certificate-authority": str(authority.file)}

    async def scenario(server: ApiServer) -> None:
        file = write_kubeconfig(tmp_path / "config", server.url, exec_user(plugin), cluster)
        async with following(server, access=lambda: load_access(file)) as view:
            assert view.services == {"a"}

    with_tls(scenario, authority.server_context(authority.issue("server"), wants_client=True))


def test_rotated_authority_is_followed(tmp_path: Path) -> None:
    """F12: the server's certificate comes from a new CA, then so does the file."""
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(old.file.read_bytes())

    async def scenario(server: ApiServer) -> None:
        cluster = {"certificate-authority": "ca.crt"}
        file = write_kubeconfig(tmp_path / "config", server.url, {}, cluster)
        async with following(server, access=lambda: load_access(file)) as view:
            await server.crash()
            await server.start(tls=new.server_context(new.issue("server")))
            server.objects.put("services", service("b"))
            await view.until(lambda: view.complained("certificate is not valid"))
            assert view.services == {"a"}

            ca_file.write_bytes(new.file.read_bytes())
            await view.until(lambda: view.services == {"a", "b"} and not view.failures)

    with_tls(scenario, old.server_context(old.issue("server")))


@pytest.mark.parametrize(
    ("names", "cluster", "is_accepted"),
    [
        ("DNS:kubernetes", {}, False),
        ("DNS:kubernetes", {"tls-server-name": "kubernetes"}, True),
        ("DNS:kubernetes", {"insecure-skip-tls-verify": True}, True),
    ],
)
def test_name_in_the_certificate_counts(
    tmp_path: Path, names: str, cluster: dict[str, Any], is_accepted: bool
) -> None:
    authority = Authority(tmp_path / "ca")
    cluster = {"certificate-authority": str(authority.file), **cluster}

    async def scenario(server: ApiServer) -> None:
        file = write_kubeconfig(tmp_path / "config", server.url, {}, cluster)
        async with following(server, access=lambda: load_access(file), synced=False) as view:
            await view.until(lambda: view.is_synced or view.failures)
            assert view.is_synced == is_accepted

    with_tls(scenario, authority.server_context(authority.issue("server", names=names)))


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
