# SPDX-License-Identifier: Apache-2.0
"""Build deploy/Dockerfile without a registry and without a daemon.

The base image is made on the spot by mmdebstrap; buildah runs the instructions. Layers are
kept by buildah, the base under build/image, so the second run takes seconds.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("buildah", "mmdebstrap")
BASE, IMAGE = "localhost/vipbee-test-base:bookworm", "localhost/vipbee-test:latest"
CONTAINER = "vipbee-test"
CERTIFICATES = "/etc/ssl/certs"  # those of this machine: it may trust a proxy of its own


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextlib.contextmanager
def built_image() -> Iterator[Path]:
    """The image's root directory, to be read only."""
    _make_base()
    _run(
        *("buildah", "build", "--layers", "--isolation=chroot", "--network=host"),
        *(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro", f"--build-arg=BASE={BASE}"),
        *("--pull-never", "--file=deploy/Dockerfile", f"--tag={IMAGE}", "."),
    )
    subprocess.run(["buildah", "rm", CONTAINER], capture_output=True)  # of a killed run
    _run("buildah", "from", "--pull-never", f"--name={CONTAINER}", IMAGE)
    try:
        yield Path(_run("buildah", "mount", CONTAINER).strip())
    finally:
        _run("buildah", "rm", CONTAINER)


def settings() -> str:
    """All there is to know about the image, as JSON."""
    return _run("buildah", "inspect", "--type=image", IMAGE)


def _make_base() -> None:
    if _run("buildah", "images", "--quiet", "--filter", f"reference={BASE}").strip():
        return
    archive = ROOT / "build" / "image" / "base.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run("mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", archive)
        base = _run("buildah", "from", "scratch").strip()
        try:
            _run("buildah", "add", base, archive, "/")
            _run("buildah", "commit", base, BASE)
        finally:
            _run("buildah", "rm", base)
    finally:
        archive.unlink(missing_ok=True)


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{command[0]} {command[1]}: {done.stderr[-2000:]}"
    return done.stdout
