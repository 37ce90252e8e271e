# SPDX-License-Identifier: Apache-2.0
"""Kubeconfigs, exec plugins and servers that ask for credentials, for tests."""

from __future__ import annotations

import base64
import json
import stat
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from tests.support.apiserver import ApiServer
from tests.support.following import run
from vipbee.sources.kubernetes import Access, in_cluster

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


def in_cluster_access(account: Path, **environment: str) -> Access:
    names = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    return in_cluster(names | environment, account)


def with_tls(scenario: Scenario, server_tls: Any) -> None:
    async def serve(server: ApiServer) -> None:
        await server.crash()
        await server.start(port=0, tls=server_tls)
        await scenario(server)

    run(serve)


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
