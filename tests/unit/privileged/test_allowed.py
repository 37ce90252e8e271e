# SPDX-License-Identifier: Apache-2.0
"""Which files the helper opens for an agent that must not be believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vipbee.config import AgentConfig
from vipbee.privileged.allowed import AllowedFiles
from vipbee.privileged.failures import RefusedError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that nobody else can write to, with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "given").mkdir(mode=0o700)
    return tmp_path


def no_credentials() -> list[str]:
    return []


def content(files: AllowedFiles, path: Path | str) -> str:
    with open(files.open(str(path))) as opened:
        return opened.read()


def test_the_configured_file_is_opened(place: Path) -> None:
    file = place / "given" / "services.txt"
    file.write_text("services")
    files = AllowedFiles(AgentConfig(state_file=file), no_credentials)

    assert content(files, file) == "services"
    assert files.state(str(file)).size == len("services")


def test_state_files_of_the_configured_directory_are_opened(place: Path) -> None:
    directory = place / "given"
    (directory / "a.yaml").write_text("a")
    (directory / "b.txt").write_text("b")
    files = AllowedFiles(AgentConfig(state_file=directory), no_credentials)

    assert files.names(str(directory)) == ["a.yaml"]
    assert content(files, directory / "a.yaml") == "a"


@pytest.mark.parametrize(
    "path",
    [
        "{place}/secret",
        "{place}/given/../secret",
        "{place}/given/../given/a.yaml",
        "{place}/given//a.yaml",
        "{place}/given/sub/a.yaml",
        "{place}/given/b.txt",
        "{place}/given/.hidden.yaml",
        "given/a.yaml",
        "/etc/shadow",
        "/proc/self/environ",
    ],
)
def test_other_files_are_refused_however_they_are_spelled(place: Path, path: str) -> None:
    directory = place / "given"
    for name in ("a.yaml", "b.txt", ".hidden.yaml"):
        (directory / name).write_text("x")
    files = AllowedFiles(AgentConfig(state_file=directory), no_credentials)

    for ask in (files.open, files.state):
        with pytest.raises(RefusedError, match="no file that the agent was configured with"):
            ask(path.format(place=place))


def test_other_directories_are_not_listed(place: Path) -> None:
    files = AllowedFiles(AgentConfig(state_file=place / "given"), no_credentials)

    with pytest.raises(RefusedError):
        files.names(str(place))


def test_what_the_kubeconfig_names_is_opened(place: Path) -> None:
    kubeconfig, token = place / "given" / "kubeconfig", place / "given" / "token"
    kubeconfig.write_text("k")
    token.write_text("t")
    asked: list[int] = []

    def named() -> list[str]:
        asked.append(1)
        return [str(token)]

    files = AllowedFiles(AgentConfig(kubeconfig=kubeconfig), named)

    assert content(files, kubeconfig) == "k"
    assert not asked
    assert content(files, token) == "t"
    with pytest.raises(RefusedError):
        files.open(str(place / "secret"))


def test_a_link_in_a_directory_of_ours_is_followed(place: Path) -> None:
    """A ConfigMap's files are links."""
    file = place / "given" / "a.yaml"
    file.symlink_to("../secret")
    files = AllowedFiles(AgentConfig(state_file=file), no_credentials)

    assert content(files, file) == "secret"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o720])
def test_a_link_where_others_can_put_one_is_not_followed(place: Path, mode: int) -> None:
    """Whoever can write there would read any file with root's rights."""
    file = place / "given" / "a.yaml"
    file.symlink_to("../secret")
    (place / "given").chmod(mode)
    files = AllowedFiles(AgentConfig(state_file=file), no_credentials)

    with pytest.raises(OSError, match="symbolic links"):
        files.open(str(file))


def test_a_file_below_a_directory_that_others_can_exchange_is_refused(place: Path) -> None:
    open_to_all = place / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (open_to_all / "inner").mkdir(mode=0o700)
    file = open_to_all / "inner" / "a.yaml"
    file.write_text("x")
    files = AllowedFiles(AgentConfig(state_file=file), no_credentials)

    with pytest.raises(RefusedError, match="others than root"):
        files.open(str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_file_of_somebody_else_is_refused_where_others_can_put_it(place: Path) -> None:
    (place / "given").chmod(0o1777)
    file = place / "given" / "a.yaml"
    file.write_text("x")
    os.chown(file, 12345, 12345)
    files = AllowedFiles(AgentConfig(state_file=file), no_credentials)

    with pytest.raises(RefusedError, match="others than root"):
        files.open(str(file))
