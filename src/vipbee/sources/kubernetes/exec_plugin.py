# SPDX-License-Identifier: Apache-2.0
"""Runs an exec plugin (client.authentication.k8s.io) and reads the ExecCredential it prints."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from vipbee.errors import SourceError
from vipbee.sources.files import read_file
from vipbee.sources.kubernetes.access import Access, ExecPlugin

TIMEOUT_S = 60.0
_SHOWN = 200  # characters of what the plugin wrote to stderr


@dataclass(frozen=True, slots=True)
class Credential:
    """A token, a client certificate, or both; `expires_unix_s` None: until refused."""

    token: str | None
    certificate: bytes | None
    key: bytes | None
    expires_unix_s: float | None


class _Status(Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None


class _ExecCredential(Struct, rename="camel"):
    kind: str
    api_version: str
    status: _Status | None = None


async def run_plugin(plugin: ExecPlugin, access: Access) -> Credential:
    """Run it once; raise SourceError with what it complained about."""
    environment = {**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": _info(plugin, access)}
    name = f"exec plugin {plugin.command}"
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        hint = f"; {plugin.install_hint}" if plugin.install_hint else ""
        raise SourceError(f"{name} cannot be run: {error.strerror}{hint}") from None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise SourceError(f"{name} did not end within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = complaint.decode(errors="replace").strip()[-_SHOWN:]
        raise SourceError(f"{name} ended with {process.returncode}: {said or 'no message'}")
    return _credential(name, plugin, output)


def _credential(name: str, plugin: ExecPlugin, output: bytes) -> Credential:
    try:
        answer = msgspec.json.decode(output, type=_ExecCredential)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{name} printed no ExecCredential: {error}") from None
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        raise SourceError(f"{name} printed {answer.kind} of {answer.api_version}")
    status = answer.status
    if status is None or not (status.token or status.client_certificate_data):
        raise SourceError(f"{name} printed neither a token nor a client certificate")
    expires = status.expiration_timestamp
    return Credential(
        token=status.token,
        certificate=(status.client_certificate_data or "").encode() or None,
        key=(status.client_key_data or "").encode() or None,
        expires_unix_s=expires.timestamp() if expires else None,
    )


def _info(plugin: ExecPlugin, access: Access) -> str:
    """KUBERNETES_EXEC_INFO. A daemon has no terminal."""
    spec: dict[str, Any] = {"interactive": False}
    if plugin.wants_cluster:
        trust = access.trust
        cluster: dict[str, Any] = {"server": access.servers[0]}
        authority = trust.ca_data or (
            read_file(access.files, trust.ca_file) if trust.ca_file else None
        )
        if authority:
            cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
        if trust.is_insecure:
            cluster["insecure-skip-tls-verify"] = True
        if trust.server_name:
            cluster["tls-server-name"] = trust.server_name
        spec["cluster"] = cluster
    return json.dumps({"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec})
