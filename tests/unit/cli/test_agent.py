# SPDX-License-Identifier: Apache-2.0
"""Options of `vipbee agent` as interface.md §2 fixes them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import vipbee.agent
import vipbee.privileged.split
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
    logging.getLogger("vipbee").setLevel(logging.NOTSET)


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
