# SPDX-License-Identifier: Apache-2.0
"""A kubeconfig file → Access. Reads the file; what it refers to is read when it is used.

Why not a library: of lightkube, kr8s and kubernetes_asyncio none runs exec plugins of
the v1 API, which is what current clouds write, none notices a rotated CA, and each brings
a second HTTP client or 40 MiB. What is left is this file.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import msgspec
from msgspec import Struct

from vipbee.errors import SourceError
from vipbee.sources.files import OWN_RIGHTS, Files, read_file
from vipbee.sources.kubernetes.access import Access, ExecPlugin, Identity, Trust
from vipbee.sources.yaml_loader import load_document

_MAX_BYTES = 1 << 20
_EXEC_GROUP = "client.authentication.k8s.io"
EXEC_VERSIONS = (f"{_EXEC_GROUP}/v1", f"{_EXEC_GROUP}/v1beta1")


class _Cluster(Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _EnvironmentVariable(Struct):
    name: str
    value: str


class _Exec(Struct, rename="camel"):
    api_version: str
    command: str
    args: list[str] | None = None
    env: list[_EnvironmentVariable] | None = None
    provide_cluster_info: bool = False
    install_hint: str | None = None


class _User(Struct, rename="kebab"):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    username: str | None = None
    password: str | None = None
    exec: _Exec | None = None
    auth_provider: dict[str, object] | None = None


class _Context(Struct):
    cluster: str = ""
    user: str = ""


class _NamedCluster(Struct):
    name: str
    cluster: _Cluster


class _NamedUser(Struct):
    name: str
    user: _User | None = None


class _NamedContext(Struct):
    name: str
    context: _Context


class _Kubeconfig(Struct, rename="kebab"):
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None
    current_context: str = ""


def load_access(path: Path, servers: tuple[str, ...] = (), files: Files = OWN_RIGHTS) -> Access:
    """Access of the current context; `servers` replaces its address (kube-proxy's --master).

    Raise SourceError, one sentence with the file and what is missing in it.
    """
    try:
        data = read_file(files, path, _MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"kubeconfig {path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise SourceError(f"kubeconfig {path} is larger than 1 MiB: is it the right file?")
    document = load_document(data, source=f"kubeconfig {path}")
    try:
        config = msgspec.convert(document, _Kubeconfig)
    except msgspec.ValidationError as error:
        raise SourceError(f"kubeconfig {path}: {error}") from None
    return _Reader(path, config).access(servers, files)


class _Reader:
    def __init__(self, path: Path, config: _Kubeconfig) -> None:
        self._path = path
        self._config = config

    def access(self, servers: tuple[str, ...], files: Files) -> Access:
        name = self._config.current_context
        if not name:
            raise self._error("has no current-context: set one with `kubectl config use-context`")
        contexts = {item.name: item.context for item in self._config.contexts or ()}
        context = contexts.get(name)
        if context is None:
            raise self._error(f"has no context {name!r}, which current-context names")
        clusters = {item.name: item.cluster for item in self._config.clusters or ()}
        cluster = clusters.get(context.cluster)
        if cluster is None:
            raise self._error(f"has no cluster {context.cluster!r}, which context {name!r} names")
        users = {item.name: item.user for item in self._config.users or ()}
        if context.user and context.user not in users:
            raise self._error(f"has no user {context.user!r}, which context {name!r} names")
        return Access(
            servers=self._servers(servers or (cluster.server,), context.cluster),
            trust=Trust(
                ca_file=self._file(cluster.certificate_authority),
                ca_data=self._data(
                    "certificate-authority-data", cluster.certificate_authority_data
                ),
                server_name=cluster.tls_server_name or None,
                is_insecure=cluster.insecure_skip_tls_verify,
            ),
            identity=self._identity(users.get(context.user) or _User(), context.user),
            proxy=cluster.proxy_url or None,
            files=files,
        )

    def _servers(self, servers: tuple[str, ...], cluster: str) -> tuple[str, ...]:
        for server in servers:
            if not server.startswith(("https://", "http://")):
                raise self._error(
                    f"cluster {cluster!r}: server wants https://HOST:PORT, not {server!r}"
                )
        return tuple(server.rstrip("/") for server in servers)

    def _identity(self, user: _User, name: str) -> Identity:
        if user.auth_provider is not None:
            raise self._error(
                f"user {name!r} has an auth-provider, which Kubernetes has removed: use exec"
            )
        certificate = self._data(
            "client-certificate-data", user.client_certificate_data
        ) or self._file(user.client_certificate)
        key = self._data("client-key-data", user.client_key_data) or self._file(user.client_key)
        if (certificate is None) != (key is None):
            raise self._error(f"user {name!r} wants a client certificate and its key, not one")
        return Identity(
            certificate=certificate,
            key=key,
            token=user.token or None,
            token_file=self._file(user.token_file),
            basic=(user.username, user.password or "") if user.username else None,
            plugin=self._plugin(user.exec, name) if user.exec is not None else None,
        )

    def _plugin(self, plugin: _Exec, user: str) -> ExecPlugin:
        if plugin.api_version not in EXEC_VERSIONS:
            raise self._error(
                f"user {user!r}: exec of apiVersion {plugin.api_version} is not supported:"
                f" use {' or '.join(EXEC_VERSIONS)}"
            )
        command = plugin.command
        if "/" in command:  # as kubectl: relative to the file, else looked for in PATH
            command = str(self._file(command))
        return ExecPlugin(
            api_version=plugin.api_version,
            command=command,
            args=tuple(plugin.args or ()),
            env={variable.name: variable.value for variable in plugin.env or ()},
            wants_cluster=plugin.provide_cluster_info,
            install_hint=plugin.install_hint or "",
        )

    def _file(self, name: str | None) -> Path | None:
        return self._path.parent / name if name else None

    def _data(self, field: str, text: str | None) -> bytes | None:
        if not text:
            return None
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise self._error(f"{field} is not base64") from None

    def _error(self, reason: str) -> SourceError:
        return SourceError(f"kubeconfig {self._path}: {reason}")
