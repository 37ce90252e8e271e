# SPDX-License-Identifier: Apache-2.0
"""Where the API server is, how it proves who it is, and how we do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vipbee.errors import SourceError
from vipbee.sources.files import OWN_RIGHTS, Files

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the server's certificate is checked against; neither given: the system's CAs."""

    ca_file: Path | None = None
    ca_data: bytes | None = None
    server_name: str | None = None
    is_insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecPlugin:
    """A program that prints an ExecCredential."""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    wants_cluster: bool = False
    install_hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who we are to the server. Never printed: it may hold secrets."""

    certificate: Path | bytes | None = field(default=None, repr=False)
    key: Path | bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    basic: tuple[str, str] | None = field(default=None, repr=False)
    plugin: ExecPlugin | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`servers` are URLs without a slash at the end, tried in turn.

    `files` reads what the rest names.
    """

    servers: tuple[str, ...]
    trust: Trust = Trust()
    identity: Identity = Identity()
    proxy: str | None = None
    files: Files = field(default=OWN_RIGHTS, repr=False, compare=False)

    def named_files(self) -> list[Path]:
        """The certificates, keys and tokens that are read when they are used."""
        named = (
            self.trust.ca_file,
            self.identity.certificate,
            self.identity.key,
            self.identity.token_file,
        )
        return [file for file in named if isinstance(file, Path)]


def in_cluster(
    environment: Mapping[str, str] = os.environ,
    account: Path = SERVICE_ACCOUNT,
    servers: tuple[str, ...] = (),
    files: Files = OWN_RIGHTS,
) -> Access:
    """Access of a pod by its ServiceAccount; `servers` replaces the ClusterIP it is told.

    That ClusterIP is served by nobody but us once kube-proxy is gone: a node that starts
    without pins cannot reach it (F3). Give the real addresses.
    """
    host, port = (environment.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
    if not servers:
        if not host or not port:
            raise SourceError(
                "this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set):"
                " give --kubeconfig PATH"
            )
        servers = (f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",)
    token = account / "token"
    try:
        files.state(token)
    except OSError as error:
        raise SourceError(
            f"{token} cannot be read ({error.strerror}): the pod needs a ServiceAccount token"
        ) from None
    return Access(
        servers=servers,
        trust=Trust(ca_file=account / "ca.crt"),
        identity=Identity(token_file=token),
        files=files,
    )
