# SPDX-License-Identifier: Apache-2.0
"""Certificates of the API server and of the agent (F12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.apiserver import ApiServer
from tests.support.certificates import Authority
from tests.support.following import following, service
from tests.support.kubeconfigs import (
    data,
    exec_user,
    with_tls,
    write_kubeconfig,
    write_plugin,
)
from vipbee.sources.kubernetes import load_access


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
