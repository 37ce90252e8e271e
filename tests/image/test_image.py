# SPDX-License-Identifier: Apache-2.0
"""What is in the image that deploy/Dockerfile builds, and what is not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.image import settings
from vipbee import __version__


def inside(rootfs: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = "/opt/vipbee/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return subprocess.run(
        ["env", "-i", f"PATH={path}", "chroot", rootfs, *command], capture_output=True, text=True
    )


def test_it_runs_the_agent_of_this_version(rootfs: Path) -> None:
    config = json.loads(settings())["OCIv1"]["config"]
    entrypoint, command = config["Entrypoint"], config["Cmd"]

    assert [*entrypoint, *command] == ["vipbee", "agent", "--kubeconfig", "in-cluster"]
    assert inside(rootfs, "vipbee", "--version").stdout == f"vipbee {__version__}\n"


def test_it_has_what_the_agent_and_the_manifests_call(rootfs: Path) -> None:
    wanted = ("nft", "iptables-nft-save", "iptables-legacy-save", "mount", "stat", "sleep")

    assert [name for name in wanted if inside(rootfs, "which", name).returncode] == []
    assert inside(rootfs, "python3", "-c", "import ctypes; ctypes.CDLL('libbpf.so.1')").stderr == ""


def test_no_compiler_and_no_installer_is_left(rootfs: Path) -> None:
    packages = inside(rootfs, "dpkg-query", "-W", "-f=${Package}\n").stdout.split()
    modules = {path.name for path in rootfs.glob("opt/vipbee/lib/python3*/site-packages/*")}

    assert [
        name
        for name in packages
        if name.startswith(("clang", "llvm", "cpp", "binutils", "libbpf-dev"))
    ] == []
    assert not modules & {"pip", "hatchling", "setuptools"}
    assert not (rootfs / "source").exists()


def test_nothing_of_the_program_may_be_changed_by_others(rootfs: Path) -> None:
    writable = [
        str(path.relative_to(rootfs))
        for path in rootfs.glob("opt/vipbee/**/*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]

    assert writable == []
