# SPDX-License-Identifier: Apache-2.0
"""As whom the API server is asked: tokens, and plugins that give them (F12)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer
from tests.support.following import following, run, service
from tests.support.kubeconfigs import (
    exec_user,
    in_cluster_access,
    runs,
    write_kubeconfig,
    write_plugin,
)
from vipbee.sources.kubernetes import credentials, load_access


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
