# SPDX-License-Identifier: Apache-2.0
"""Exit codes (interface.md §2), one sentence for each error, and a quick start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vipbee import __version__
from vipbee.cli import commands
from vipbee.cli.main import run
from vipbee.errors import EnvironmentUnusable, KernelError, UsageError, VipbeeError

PROGRAM = "from vipbee.cli.main import main; main()"


def failing(error: BaseException) -> object:
    def app(*_: object, **__: object) -> None:
        raise error

    return app


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vipbee {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "vipbee: No such command 'nonsense'."),
        (["status", "--nonsense"], "vipbee: No such option: --nonsense"),
        (["service", "list", "a/b/c"], "vipbee: 'a/b/c' is not NAMESPACE/NAME"),
        (["service", "list", "a/b", "-n", "c"], "vipbee: a/b is not in namespace c: give one"),
        (["agent", "--cgroup-root"], "vipbee: argument --cgroup-root: expected one argument"),
        (["agent", "--nonsense"], "vipbee: unrecognized arguments: --nonsense"),
        (["agent"], "vipbee: say where Services come from"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2

    printed = capsys.readouterr()
    assert printed.err.startswith(sentence)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_wrong_choice_names_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["service", "list", "-o", "foo"]) == 2
    assert capsys.readouterr().err == (
        "vipbee: Invalid value for '--output' / '-o': 'foo' is not one of"
        " 'table', 'wide', 'json', 'yaml'.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["service"], ["backend"], ["conntrack"], ["nat"], ["affinity"], ["lab"], ["agent", "-h"]],
)
def test_help_of_80_columns_cuts_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    assert run(arguments) == 0

    printed = capsys.readouterr().out
    cut = [line for line in printed.splitlines() if line.endswith(("…", "..."))]
    assert [line for line in cut if "[ARGS]" not in line and "CIDR,…" not in line] == []
    assert "╭" not in printed


def test_help_of_the_agent_has_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "--help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "Options:",
        "Services:",
        "Where to attach:",
        "Packets:",
        "Rights:",
    ]


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (VipbeeError("it failed"), 1, "vipbee: it failed\n"),
        (UsageError("that is wrong"), 2, "vipbee: that is wrong\n"),
        (EnvironmentUnusable("no bpffs", remedy="mount it"), 3, "vipbee: no bpffs: mount it\n"),
        (KernelError("no", 1, "why"), 1, "vipbee: no: Operation not permitted: why\n"),
        (PermissionError(1, "x", "/a"), 3, "vipbee: /a: permission denied: run as root\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "app", failing(error))

    assert run([]) == code
    assert capsys.readouterr().err == sentence


def test_errors_of_the_agents_tasks_come_out_of_their_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F70"""
    inner = ExceptionGroup("inner", [EnvironmentUnusable("gone", remedy="restart")])
    monkeypatch.setattr(commands, "app", failing(ExceptionGroup("tasks", [inner])))

    assert run([]) == 3
    assert capsys.readouterr().err == "vipbee: gone: restart\n"


def test_programming_error_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """F70"""
    mixed = ExceptionGroup("tasks", [VipbeeError("x"), ZeroDivisionError()])
    monkeypatch.setattr(commands, "app", failing(mixed))

    with pytest.raises(ExceptionGroup):
        run([])


def test_closed_pipe_is_quiet() -> None:
    """`vipbee … | head` must not print a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.stderr == b""


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0

    listed = capsys.readouterr().out
    for command in commands._COMMANDS:
        assert f" {command} " in listed


@pytest.mark.parametrize("group", ["service", "backend", "lab"])
def test_group_without_command_shows_its_help(
    group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([group]) == 0
    assert f"Usage: vipbee {group}" in capsys.readouterr().out


def test_version_needs_nothing_heavy() -> None:
    """A second of imports before every answer is what people remember of a command."""
    check = (
        "import sys; from vipbee.cli.main import run; run(['--version']); "
        "print(*({'numpy', 'aiohttp', 'pyroute2', 'yaml'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    "arguments", [["service", "list"], ["backend", "list"], ["service", "list", "-o", "json"]]
)
def test_nothing_pinned_is_one_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--bpf-root", str(tmp_path)]) == 1

    printed = capsys.readouterr()
    expected = f"nothing is programmed: {tmp_path} holds no pins; start `vipbee agent`"
    assert printed.err == f"vipbee: {expected}\n"
    assert printed.out == ""


def test_status_without_pins_says_so_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bpf_root = tmp_path / "none"
    assert run(["status", "--bpf-root", str(bpf_root)]) == 1
    assert capsys.readouterr().out == f"not running and nothing is programmed at {bpf_root}\n"


def test_another_layout_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """interface.md §5."""
    (tmp_path / "v0").mkdir()

    assert run(["status", "--bpf-root", str(tmp_path)]) == 3
    assert "holds layout v0, which this version does not read" in capsys.readouterr().err


def test_cleanup_of_nothing_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none"

    assert run(["cleanup", "--bpf-root", str(missing)]) == 0
    assert capsys.readouterr().out == f"nothing to remove: {missing} holds no pins\n"


def test_cleanup_refuses_a_directory_that_is_no_bpffs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F51: it removes whole directories: a wrong --bpf-root must not cost anybody their files."""
    (tmp_path / "v1").mkdir()

    assert run(["cleanup", "--bpf-root", str(tmp_path)]) == 3
    assert (tmp_path / "v1").is_dir()
    assert "is not on a bpffs" in capsys.readouterr().err
