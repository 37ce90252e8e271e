# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernels, unpacked, for the kernel matrix.

The mirror is the one this machine's apt already uses; the packages of other suites are
read through a private apt configuration, so the machine's own package lists stay as
they are. apt verifies signatures and hashes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-cloud-amd64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class KernelUnavailableError(Exception):
    """This machine cannot provide the kernel; the message says why."""


@dataclass(frozen=True)
class DebianKernel:
    """One unpacked kernel package."""

    release: str
    """As `uname -r` prints it."""
    image: Path
    modules: Path
    """lib/modules/<release>; no modules.dep, that is made at installation."""


def cache_directory() -> Path:
    """Outside the repository, so that fresh clones do not download again."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vipbee" / "kernels"


def obtain(suite: str, version: str, *, cache: Path | None = None) -> DebianKernel:
    """Return the cloud kernel of a Debian suite, from the cache or from the mirror.

    `version` ("5.10") is what the suite is expected to carry.
    """
    root = (cache or cache_directory()) / suite
    if (found := _unpacked(root / "root", version)) is not None:
        return found
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise KernelUnavailableError("apt-get and dpkg-deb are needed to fetch Debian kernels")
    shutil.rmtree(root, ignore_errors=True)
    package = _download(suite, root)
    staging = root / "unpacking"
    _run(["dpkg-deb", "--extract", str(package), str(staging)])
    staging.rename(root / "root")
    package.unlink()
    if (found := _unpacked(root / "root", version)) is None:
        raise KernelUnavailableError(f"{suite} carries {package.name}, not a kernel {version}")
    return found


def _unpacked(root: Path, version: str) -> DebianKernel | None:
    for image in sorted(root.glob(f"boot/vmlinuz-{version}.*")):
        release = image.name.removeprefix("vmlinuz-")
        for modules in (root / "lib/modules" / release, root / "usr/lib/modules" / release):
            if modules.is_dir():
                return DebianKernel(release, image, modules)
    return None


def _download(suite: str, root: Path) -> Path:
    """Fetch the package the suite's meta-package depends on; return the .deb."""
    options = _private_apt(suite, root)
    _run(["apt-get", *options, "update"])
    shown = _run(["apt-cache", *options, "show", "--no-all-versions", META_PACKAGE])
    depends = re.search(r"^Depends: (linux-image-[^ ,]+)", shown, re.MULTILINE)
    if depends is None:
        raise KernelUnavailableError(f"suite {suite} has no {META_PACKAGE}")
    _run(["apt-get", *options, "download", depends[1]], cwd=root)
    return next(root.glob("*.deb"))


def _private_apt(suite: str, root: Path) -> list[str]:
    """Make a configuration that knows one suite and touches nothing of the machine's."""
    for folder in ("state/lists/partial", "cache/archives/partial", "parts"):
        (root / folder).mkdir(parents=True)
    source = root / "suite.list"
    trust = f"[arch=amd64 signed-by={KEYRING}]" if KEYRING.exists() else "[arch=amd64]"
    source.write_text(f"deb {trust} {debian_mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::SourceList": source,
        "Dir::Etc::SourceParts": root / "parts",
        "Dir::State": root / "state",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": root / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Check-Valid-Until": "false",  # an archived suite is no longer re-signed
        "Acquire::Languages": "none",
    }
    return [f"--option={name}={value}" for name, value in settings.items()]


def debian_mirror() -> str:
    """The URI of the Debian archive: VIPBEE_DEBIAN_MIRROR, or the one apt uses here."""
    if named := os.environ.get("VIPBEE_DEBIAN_MIRROR"):
        return named
    lists = _run(["apt-get", "indextargets", "--format", "$(SITE) $(REPO_URI) $(ORIGIN) $(LABEL)"])
    for line in lists.splitlines():
        _, uri, *names = line.split()
        if names == ["Debian", "Debian"]:
            return uri
    raise KernelUnavailableError(
        "apt is not configured with a Debian mirror: name one in VIPBEE_DEBIAN_MIRROR"
    )


def _run(command: list[str], cwd: Path | None = None) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise KernelUnavailableError(f"{command[0]} failed: {reason}")
    return result.stdout
