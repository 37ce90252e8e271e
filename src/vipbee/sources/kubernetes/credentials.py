# SPDX-License-Identifier: Apache-2.0
"""The Authorization header and client certificate of the next request.

Token files are read again after a while, as the kubelet replaces them in place; plugins
are run again shortly before what they gave expires. A 401 forgets what was cached.
"""

from __future__ import annotations

import asyncio
import base64
import time

from vipbee.errors import SourceError
from vipbee.sources.files import read_file
from vipbee.sources.kubernetes.access import Access
from vipbee.sources.kubernetes.exec_plugin import Credential, run_plugin

TOKEN_FILE_AGE_S = 60.0  # client-go's
EXPIRY_MARGIN_S = 30.0


class Credentials:
    """Of one Access; used by all its connections."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._identity = access.identity
        self._file_token: tuple[float, str] | None = None  # (monotonic time, token)
        self._given: Credential | None = None
        self._lock = asyncio.Lock()  # one run of the plugin serves all who wait

    def forget(self) -> None:
        """The server refused them: ask again."""
        self._file_token = None
        self._given = None

    async def header(self) -> str | None:
        """Value of the Authorization header, or None; raise SourceError."""
        identity = self._identity
        if identity.token_file is not None:  # before `token`, as in client-go
            return f"Bearer {self._token_of_file()}"
        if identity.token is not None:
            return f"Bearer {identity.token}"
        if identity.basic is not None:
            return "Basic " + base64.b64encode(":".join(identity.basic).encode()).decode()
        credential = await self._plugin()
        return f"Bearer {credential.token}" if credential and credential.token else None

    async def certificate(self) -> tuple[bytes, bytes] | None:
        """Certificate and key from the plugin, PEM; those of files are the business of tls."""
        credential = await self._plugin()
        if credential is None or credential.certificate is None or credential.key is None:
            return None
        return credential.certificate, credential.key

    async def _plugin(self) -> Credential | None:
        plugin = self._identity.plugin
        if plugin is None:
            return None
        async with self._lock:
            given = self._given
            if given is None or _is_over(given):
                given = self._given = await run_plugin(plugin, self._access)
            return given

    def _token_of_file(self) -> str:
        file = self._identity.token_file
        assert file is not None
        now = time.monotonic()
        if self._file_token is not None and now - self._file_token[0] < TOKEN_FILE_AGE_S:
            return self._file_token[1]
        try:
            token = read_file(self._access.files, file).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise SourceError(f"token file {file} cannot be read: {reason}") from None
        if not token or not token.isascii() or not token.isprintable():
            raise SourceError(f"token file {file} holds no token")
        self._file_token = now, token
        return token


def _is_over(credential: Credential) -> bool:
    expires = credential.expires_unix_s
    return expires is not None and time.time() > expires - EXPIRY_MARGIN_S
