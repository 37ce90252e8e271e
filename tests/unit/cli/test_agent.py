# SPDX-License-Identifier: Apache-2.0
"""Options of `vipbee agent` as interface.md §2 fixes them, and its logs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import vipbee.agent
import vipbee.privileged.split
from vipbee.cli.logs import configure_logs
from vipbee.cli.main import run
from vipbee.config import AgentConfig
from vipbee.privileged.operations import Operations
from vipbee.privileged.split import Hands
from vipbee.sources.files import OWN_RIGHTS


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Logging is the process's: leave it as it was for other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AgentConfig]:
    """Configurations the agent was started with, instead of starting it."""
    configurations: list[AgentConfig] = []

    async def note(config: AgentConfig, hands: object) -> None:
        configurations.append(config)

    @contextlib.contextmanager
    def keep_rights(config: AgentConfig) -> Iterator[Hands]:
        nothing = Operations(config, lambda: pytest.fail("nothing is loaded"), lock=-1)
        yield Hands(nothing, OWN_RIGHTS, None)

    monkeypatch.setattr(vipbee.agent, "run", note)
    monkeypatch.setattr(vipbee.privileged.split, "split", keep_rights)
    return configurations


def test_every_option_reaches_the_configuration(started: list[AgentConfig]) -> None:
    code = run(
        [
            "agent",
            "--state-file=/etc/services.yaml",
            "--hostname-override=node-a",
            "--cgroup-root=/cg",
            "--bpf-root=/bpf",
            "--devices=eth+",
            "--pod-devices=veth+,cali+",
            "--cluster-cidr=10.244.0.0/16,fd00::/48",
            "--nodeport-addresses=172.30.0.0/16",
            "--healthz-bind-address=127.0.0.1:1",
            "--metrics-bind-address=",
            "--no-socket-lb",
            "--user=1234",
            "--privileged",
            "--log-format=json",
            "--log-level=error",
        ]
    )

    assert code == 0
    (config,) = started
    assert config.state_file == Path("/etc/services.yaml")
    assert config.node_name == "node-a"
    assert (config.cgroup_root, config.bpf_root) == (Path("/cg"), Path("/bpf"))
    assert (config.devices, config.pod_devices) == (("eth+",), ("veth+", "cali+"))
    assert len(config.cluster_cidrs) == 2
    assert str(config.healthz_bind) == "127.0.0.1:1"
    assert config.metrics_bind is None
    assert not config.socket_lb
    assert (config.user, config.privileged) == ("1234", True)
    assert (config.log_format, config.log_level) == ("json", "error")


def test_node_name_is_an_alias(started: list[AgentConfig]) -> None:
    assert run(["agent", "--state-file=/x", "--node-name=node-b"]) == 0
    assert started[0].node_name == "node-b"


def test_options_that_are_not_given_do_not_override_the_file(
    started: list[AgentConfig], tmp_path: Path
) -> None:
    file = tmp_path / "vipbee.yaml"
    file.write_text("state-file: /from/file\nsocket-lb: false\nlog-level: warning\n")

    assert run(["agent", f"--config={file}"]) == 0
    assert started[0].state_file == Path("/from/file")
    assert not started[0].socket_lb


def test_json_logs_are_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")

    structlog.get_logger().info("programmed", entries=3)
    structlog.get_logger().debug("not shown")
    logging.getLogger("aiohttp.server").error("from %s", "elsewhere")

    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["message"], first["level"], first["entries"]) == ("programmed", "info", 3)
    assert first["timestamp"].endswith("Z")
    assert (second["message"], second["level"]) == ("from elsewhere", "error")


def test_text_logs_have_key_and_value(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("text", "warning")

    structlog.get_logger().info("not shown")
    structlog.get_logger().warning("problem", object="Service a/b")

    printed = capfd.readouterr().err
    assert "[warning  ] problem object='Service a/b'" in printed
    assert "not shown" not in printed


def test_lines_that_cannot_be_written_are_lost_and_nothing_else() -> None:
    """F66: a full disk; F69: whoever read the log is gone."""
    code = """
import logging, structlog
from vipbee.cli.logs import configure_logs
configure_logs("text", "info")
structlog.get_logger().info("lost", text="x" * 100_000)
logging.getLogger("asyncio").error("lost too")
print("works on")
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as broken:
        for stderr in (full, broken):
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout) == (0, "works on\n")
