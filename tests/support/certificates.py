# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities of a test, made with openssl: PEM files in a directory."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """A CA of its own; two of one name have different keys."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.own = Pair(directory / "ca.crt", directory / "ca.key")
        _openssl("req", "-x509", *_NEW_KEY, self.own.key, "-out", self.own.certificate)

    @property
    def file(self) -> Path:
        return self.own.certificate

    def issue(self, name: str, *, names: str = "IP:127.0.0.1") -> Pair:
        """A certificate for `names` (subjectAltName)."""
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl("req", *_NEW_KEY, pair.key, "-out", request, subject=name)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.own.certificate),
            *("-CAkey", self.own.key, "-CAcreateserial", "-extfile", extensions),
            *("-days", "1", "-out", pair.certificate),
        )
        return pair

    def server_context(self, pair: Pair, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.file)
        context.load_cert_chain(pair.certificate, pair.key)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")


def _openssl(command: str, *options: object, subject: str = "test CA") -> None:
    argv = ["openssl", command, *map(str, options)]
    if command == "req":
        argv += ["-subj", f"/CN={subject}"]
    subprocess.run(argv, check=True, capture_output=True)
