# SPDX-License-Identifier: Apache-2.0
"""The object and the wheel: complete, and the same bytes wherever and whenever built."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_INPUTS = (
    *("bpf", "examples", "src", "LICENSES"),
    *("README.md", "hatch_build.py", "pyproject.toml"),
)


def copy_sources(target: Path) -> Path:
    """A copy of everything a build reads, and of nothing a build made."""
    target.mkdir(parents=True)
    for name in BUILD_INPUTS:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "_obj")
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy2(source, target / name)
    return target


def run(*command: str | Path, directory: Path | None = None, **environment: str) -> None:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stdout + result.stderr


def build_wheel(project: Path) -> Path:
    """Build without network and without isolation; return the wheel."""
    backend = "from hatchling.build import build_wheel; build_wheel('dist')"
    run(sys.executable, "-c", backend, directory=project, SOURCE_DATE_EPOCH="1700000000")
    (wheel,) = (project / "dist").glob("*.whl")
    return wheel


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def two_wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("build")
    return (
        build_wheel(copy_sources(folder / "here")),
        build_wheel(copy_sources(folder / "quite" / "elsewhere")),
    )


def test_object_is_the_same_bytes_from_two_directories(two_wheels: tuple[Path, Path]) -> None:
    first, second = (
        wheel.parent.parent / "src" / "vipbee" / "_obj" / "vipbee.bpf.o" for wheel in two_wheels
    )

    assert digest(first) == digest(second)


def test_wheel_is_the_same_bytes_from_two_directories(two_wheels: tuple[Path, Path]) -> None:
    first, second = two_wheels

    assert digest(first) == digest(second)


def test_wheel_runs_on_every_machine_and_brings_the_object(
    two_wheels: tuple[Path, Path],
) -> None:
    wheel, _ = two_wheels

    names = zipfile.ZipFile(wheel).namelist()

    assert wheel.name.endswith("-py3-none-any.whl")
    assert "vipbee/_obj/vipbee.bpf.o" in names
    assert "vipbee/py.typed" in names
    assert "vipbee/examples/lab.yaml" in names  # what the demo is built from
    assert any(name.endswith("licenses/LICENSES/GPL-2.0-only.txt") for name in names)


def test_installed_wheel_gives_the_command_and_reads_its_own_object(
    two_wheels: tuple[Path, Path], tmp_path: Path
) -> None:
    """Fresh environment; the dependencies are borrowed from the one the tests run in."""
    wheel, _ = two_wheels
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    (site,) = (environment / "lib").glob("python3*/site-packages")
    options = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    run(environment / "bin" / "vipbee", "--help", PYTHONPATH="")
    run(
        python,
        "-c",
        "from vipbee.datapath.layouts import OBJECT_PATH, load_layouts\n"
        f"assert str(OBJECT_PATH).startswith({str(environment)!r}), OBJECT_PATH\n"
        "assert load_layouts()['frontend_key'].itemsize",
        PYTHONPATH="",
    )
