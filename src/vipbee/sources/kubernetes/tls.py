# SPDX-License-Identifier: Apache-2.0
"""SSL contexts that follow the files they were made of: a rotated CA needs no restart."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from vipbee.errors import SourceError
from vipbee.sources.files import read_file
from vipbee.sources.kubernetes.access import Access

_Pair = tuple[bytes, bytes]


class TlsContexts:
    """Gives the context for new connections; connections made before keep theirs."""

    def __init__(self, access: Access) -> None:
        self._trust = access.trust
        self._identity = access.identity
        self._files = access.files
        self._context: ssl.SSLContext | None = None
        self._made_of: object = None

    def current(self, pair: _Pair | None) -> ssl.SSLContext:
        """Context for now; `pair` is a client certificate and key from a plugin."""
        files = [
            file
            for file in (self._trust.ca_file, self._identity.certificate, self._identity.key)
            if isinstance(file, Path)
        ]
        made_of = ([self._state(file) for file in files], pair)
        if self._context is None or made_of != self._made_of:
            self._context = self._make(pair)
            self._made_of = made_of
        return self._context

    def _make(self, pair: _Pair | None) -> ssl.SSLContext:
        trust = self._trust
        try:
            authorities = trust.ca_data
            if trust.ca_file is not None:
                authorities = read_file(self._files, trust.ca_file)
            if authorities is not None and b"-----BEGIN" not in authorities:
                raise ValueError("it holds no PEM certificate")
            context = ssl.create_default_context(cadata=_text(authorities) if authorities else None)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"CA certificate {trust.ca_file or 'of the kubeconfig'} cannot be used:"
                f" {_reason(error)}"
            ) from None
        if trust.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate, key = pair or (self._identity.certificate, self._identity.key)
        if certificate is not None and key is not None:
            self._load_pair(context, certificate, key)
        return context

    def _load_pair(
        self, context: ssl.SSLContext, certificate: Path | bytes, key: Path | bytes
    ) -> None:
        """OpenSSL takes names of files only: so all goes through files in memory."""
        descriptors: list[int] = []

        def name_of(content: Path | bytes) -> str:
            if isinstance(content, Path):
                content = read_file(self._files, content)
            descriptor = os.memfd_create("vipbee-pem", os.MFD_CLOEXEC)
            descriptors.append(descriptor)
            os.write(descriptor, content)
            return f"/proc/self/fd/{descriptor}"

        try:
            context.load_cert_chain(name_of(certificate), name_of(key), password=_refuse_password)
        except (OSError, ValueError) as error:
            what = certificate if isinstance(certificate, Path) else "of the kubeconfig"
            raise SourceError(
                f"client certificate {what} cannot be used: {_reason(error)}"
            ) from None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _state(self, file: Path) -> object:
        try:
            return self._files.state(file)
        except OSError:
            return None


def _refuse_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")


def _text(data: bytes) -> str:
    return data.decode("ascii", errors="replace")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return getattr(error, "strerror", None) or str(error)
