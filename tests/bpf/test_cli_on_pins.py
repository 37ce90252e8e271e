# SPDX-License-Identifier: Apache-2.0
"""status, service list, backend list and cleanup read real pins, while no agent runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.hooked import Hooked
from tests.support.readings import LOCAL, TERMINATING, backend, frontend, node_port, service_port
from vipbee.abi import AddressFlag, MapName, ReportSeverity
from vipbee.address import parse_address
from vipbee.cli.main import run
from vipbee.core.plan import Op
from vipbee.datapath import pins

Show = Callable[..., Any]


@pytest.fixture
def pinned(as_root: None) -> Iterator[Hooked]:
    with Hooked.up() as hooked:
        hooked.program(
            [
                service_port(
                    "web",
                    frontend("10.96.0.10"),
                    node_port(30080),
                    port_name="http",
                    backends=(backend("10.244.1.1", LOCAL), backend("10.244.1.2", TERMINATING)),
                ),
                service_port("dns", frontend("10.96.0.11"), namespace="kube-system"),
            ],
            node_addresses={parse_address("172.30.0.1"): int(AddressFlag.NODE | AddressFlag.OWN)},
        )
        yield hooked


@pytest.fixture
def show(pinned: Hooked, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run a command with -o json on the pins; returns (exit code, document)."""

    def shown(*arguments: str) -> tuple[int, Any]:
        code = run([*arguments, "-o", "json", f"--bpf-root={pinned.bpf_root}"])
        return code, json.loads(capsys.readouterr().out)

    return shown


def write_card(hooked: Hooked, *, pid: int) -> None:
    assert hooked.tables is not None
    card = np.zeros(1, dtype=hooked.layouts["agent_info"])
    card["pid"], card["node_name"] = pid, b"node-a"
    hooked.tables.apply(Op(MapName.AGENT, np.zeros(1, dtype=np.uint32), card))


def test_status_says_what_is_attached_and_programmed(pinned: Hooked, show: Show) -> None:
    code, status = show("status")

    assert code == 0
    assert (status["programmed"], status["running"], status["agent"]) == (True, False, None)
    assert (status["services"], status["servicePorts"]) == (2, 2)
    assert (status["frontends"], status["backends"]) == (3, 2)
    assert {hook["cgroup"] for hook in status["hooks"]} == {str(pinned.cgroup)}
    assert all(hook["attached"] and hook["current"] for hook in status["hooks"])
    assert len(status["hooks"]) == 11
    if pinned.features.stale_iterator:
        assert status["degraded"] == []
    else:
        (lacks,) = status["degraded"]
        assert "one pod after another" in lacks


def test_status_needs_lock_and_living_process_to_say_running(pinned: Hooked, show: Show) -> None:
    """A pid alone may be another program's by now, a lock alone a cleanup's."""
    write_card(pinned, pid=os.getpid())
    assert not show("status")[1]["running"]

    with pins.exclusive(pinned.bpf_root):
        assert show("status")[1]["running"]
        write_card(pinned, pid=2**22 + 1)  # above any pid
        assert not show("status")[1]["running"]


def test_status_notices_a_hook_that_lost_its_cgroup(pinned: Hooked, show: Show) -> None:
    """F48: the link is still pinned, but does nothing."""
    pinned.cgroup.rmdir()

    _, status = show("status")
    deadline = time.monotonic() + 10
    # the kernel lets go of a cgroup's links some time after the cgroup
    while status["hooks"][0]["attached"] and time.monotonic() < deadline:
        _, status = show("status")

    assert not any(hook["attached"] for hook in status["hooks"])
    assert status["degraded"][0].startswith("not attached: vipbee_connect4, ")


def test_status_shows_problems_the_agent_reported(pinned: Hooked, show: Show) -> None:
    report = np.zeros(1, dtype=pinned.layouts["report"])
    report["object"], report["message"] = b"Service default/x", b"port 99 is SCTP"
    report["severity"] = ReportSeverity.ERROR
    assert pinned.tables is not None
    pinned.tables.apply(Op(MapName.REPORTS, np.zeros(1, dtype=np.uint32), report))

    _, status = show("status")

    assert status["problems"] == [
        {"severity": "error", "object": "Service default/x", "message": "port 99 is SCTP"}
    ]


def test_status_for_people_is_not_empty(pinned: Hooked, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", f"--bpf-root={pinned.bpf_root}", "-o", "wide"]) == 0

    printed = capsys.readouterr().out
    assert "not running; what is programmed stays in force" in printed
    assert f"11 of 11 attached at {pinned.cgroup}" in printed


def test_service_list_names_frontends_and_backends(show: Show) -> None:
    code, (web,) = show("service", "list", "default/web")

    assert code == 0
    assert [(f["address"], f["port"], f["type"]) for f in web["frontends"]] == [
        ("10.96.0.10", 80, "ClusterIP"),
        ("*", 30080, "NodePort"),
    ]
    assert web["frontends"][1]["nodeAddresses"] == ["172.30.0.1"]
    assert [(b["address"], b["state"]) for b in web["backends"]] == [
        ("10.244.1.1", "active"),
        ("10.244.1.2", "terminating"),
    ]


def test_service_that_is_not_there_exits_1(
    pinned: Hooked, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["service", "list", "default/x", f"--bpf-root={pinned.bpf_root}"]) == 1
    assert capsys.readouterr().err == "vipbee: Service default/x is not programmed\n"


def test_backend_list_counts_connections(pinned: Hooked, show: Show) -> None:
    assert pinned.tables is not None
    backends = pinned.tables.read_array(MapName.BACKENDS)
    counters = np.zeros(1, dtype=pinned.layouts["backend_counters"])
    counters["opened"], counters["closed"] = 5, 2
    ids = np.flatnonzero(backends["address"]["word"][:, 3] == 0x0AF40101).astype(np.uint32)
    pinned.tables.apply(Op(MapName.BACKEND_COUNTERS, ids, counters))

    _, (first, second) = show("backend", "list")

    assert (first["address"], first["opened"], first["active"]) == ("10.244.1.1", 5, 3)
    assert (first["namespace"], first["name"], first["portName"]) == ("default", "web", "http")
    assert (second["address"], second["opened"]) == ("10.244.1.2", 0)


def test_explain_reads_pins_and_writes_nothing(pinned: Hooked, show: Show) -> None:
    assert pinned.tables is not None
    before = pinned.tables.read_reasons().tolist()

    code, view = show("explain", "172.30.0.1:30080")

    assert code == 0
    assert (view["frontend"]["name"], view["frontend"]["type"]) == ("web", "NodePort")
    sockets, packets = view["answers"]
    assert (sockets["layer"], sockets["verdict"]) == ("sockets", "translate")
    (candidate,) = sockets["candidates"]
    assert (candidate["address"], candidate["sharePercent"]) == ("10.244.1.1", 100)
    assert (packets["verdict"], packets["reason"]) == ("pass", None)  # that layer is off
    assert pinned.tables.read_reasons().tolist() == before


@pytest.mark.parametrize(
    ("destination", "verdict", "reason"),
    [("192.0.2.1:80", "pass", None), ("10.96.0.10:81", "refuse", "unknown_port")],
)
def test_explain_exits_0_also_for_what_is_not_served(
    show: Show, destination: str, verdict: str, reason: str | None
) -> None:
    code, view = show("explain", destination)

    assert (code, view["frontend"]) == (0, None)
    sockets = view["answers"][0]
    assert (sockets["verdict"], sockets["reason"]) == (verdict, reason)


def test_pinned_map_of_another_shape_is_refused(
    pinned: Hooked, capsys: pytest.CaptureFixture[str]
) -> None:
    """F41: the kernel would write more than the reader has room for."""
    services = pinned.directory.get("maps", "services")
    assert services is not None
    pinned.directory.put("maps", "addresses", services)
    os.close(services)

    assert run(["service", "list", f"--bpf-root={pinned.bpf_root}"]) == 3

    assert "the pinned map addresses is not one of this version" in capsys.readouterr().err


def test_cleanup_removes_everything_and_nothing_else(
    pinned: Hooked, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = pinned.bpf_root.with_name(f"{pinned.bpf_root.name}-beside")
    beside.mkdir(exist_ok=True)
    option = f"--bpf-root={pinned.bpf_root}"
    try:
        assert run(["cleanup", option]) == 0
        assert "removed 11 hooks" in capsys.readouterr().out
        assert not pinned.bpf_root.exists()

        assert run(["cleanup", option]) == 0
        assert "nothing to remove" in capsys.readouterr().out
        assert beside.is_dir()
    finally:
        beside.rmdir()


def test_cleanup_refuses_a_directory_with_pins_of_others(
    pinned: Hooked, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody names the wrong directory, say another program's: nothing of it may go."""
    foreign = pinned.bpf_root / "globals"
    foreign.mkdir()

    assert run(["cleanup", f"--bpf-root={pinned.bpf_root}"]) == 3

    assert "holds globals, which vipbee did not make" in capsys.readouterr().err
    assert foreign.is_dir()
    assert pinned.directory.names("links")


def test_cleanup_of_a_bpffs_of_its_own_leaves_it_mounted(as_root: None, tmp_path: Path) -> None:
    """The agent mounts one where --bpf-root is not below /sys/fs/bpf."""
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    try:
        (tmp_path / "v1" / "maps").mkdir(parents=True)

        assert run(["cleanup", f"--bpf-root={tmp_path}"]) == 0

        assert tmp_path.is_mount()
        assert not (tmp_path / "v1").exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_cleanup_removes_what_a_killed_start_left(pinned: Hooked) -> None:
    (pinned.bpf_root / "new-v1" / "maps").mkdir(parents=True)

    assert run(["cleanup", f"--bpf-root={pinned.bpf_root}"]) == 0

    assert not pinned.bpf_root.exists()


def test_cleanup_is_refused_while_an_agent_runs(
    pinned: Hooked, capsys: pytest.CaptureFixture[str]
) -> None:
    """F54."""
    with pins.exclusive(pinned.bpf_root):
        code = run(["cleanup", f"--bpf-root={pinned.bpf_root}"])

    assert code == 3
    assert "another vipbee process holds" in capsys.readouterr().err
    assert pinned.directory.names("links")
