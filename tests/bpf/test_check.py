# SPDX-License-Identifier: Apache-2.0
"""`vipbee check` on this kernel: it tries for real, and nothing of it stays."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hooked import Hooked
from vipbee.cli.main import run
from vipbee.datapath import capabilities, probe, probe_hooks
from vipbee.datapath.features import probe_features
from vipbee.datapath.finding import Finding, Result
from vipbee.datapath.mounts import find_cgroup_root
from vipbee.datapath.other_agent import other_agent
from vipbee.datapath.programs import SOCKET_PROGRAMS
from vipbee.errors import KernelError
from vipbee.takeover.findings import find_kube_proxy

NAME = "vipbee-test-check"
BPF_ROOT = Path("/sys/fs/bpf") / NAME

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def cgroup() -> Iterator[Path]:
    path = find_cgroup_root() / NAME
    path.mkdir(exist_ok=True)
    yield path
    path.rmdir()


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_this_machine_is_usable(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["check", "-o", "json", f"--bpf-root={BPF_ROOT}"])

    document = json.loads(capsys.readouterr().out)
    results = {finding["what"]: finding["result"] for finding in document["findings"]}
    assert (code, document["usable"]) == (0, True)
    for program in SOCKET_PROGRAMS:
        assert results[f"hook: {program.removeprefix('vipbee_')}"] == "ok"
    assert {"libbpf", "capabilities", "bpffs", "cgroup v2", "memory"} <= results.keys()


def test_check_leaves_nothing_behind(cgroup: Path) -> None:
    """No pin, no cgroup, and no program at the cgroup it was shown."""
    before = set(cgroup.iterdir())

    assert run(["check", f"--bpf-root={BPF_ROOT}", f"--cgroup-root={cgroup}"]) == 0

    assert set(cgroup.iterdir()) == before
    assert not BPF_ROOT.exists()


def test_cgroup_of_a_killed_check_is_removed(cgroup: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    leftover = cgroup / f"vipbee-check-{ended.pid}"
    leftover.mkdir()

    probe_hooks.probe_hooks(cgroup, probe_features())

    assert not leftover.exists()


def test_subtree_is_a_warning_and_the_hosts_root_is_not(cgroup: Path) -> None:
    """F49: hooks on a part of the tree miss the other programs of the node."""
    part, _ = probe_hooks.probe_cgroup(cgroup)
    whole, path = probe_hooks.probe_cgroup(None)

    assert part.result is Result.WARNING
    assert "only programs below it" in part.used
    assert whole.result is Result.OK
    assert path == find_cgroup_root()


def test_directory_that_is_no_cgroup_blocks_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", f"--bpf-root={BPF_ROOT}", f"--cgroup-root={tmp_path}"]) == 3

    assert capsys.readouterr().err == (
        f"vipbee: cgroup v2: {tmp_path} is not a cgroup v2 directory: name one with --cgroup-root\n"
    )


def test_kernel_without_a_hook_is_found_by_trying(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F47"""

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(probe_hooks.syscall, "link_create_cgroup", refuse)

    findings = probe_hooks.probe_hooks(cgroup, probe_features())

    assert {finding.result for finding in findings} == {Result.MISSING}
    assert findings[0].used == "attaching failed: Invalid argument"
    assert all("5.10" in finding.remedy for finding in findings)


def test_kernel_without_a_map_type_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = KernelError("the kernel refused the datapath object", 22, "log\nlog")
    monkeypatch.setattr(probe, "try_load", lambda **_: refusal)

    findings = probe.probe_map_types()

    assert all(finding.is_blocking for finding in findings)
    assert "\n" not in findings[0].used


def test_maps_larger_than_memory_block() -> None:
    assert probe.probe_memory(1 << 60).is_blocking
    assert probe.probe_memory(1 << 20).result is Result.OK


def test_older_layout_blocks(tmp_path: Path) -> None:
    """interface.md §5."""
    (tmp_path / "v0").mkdir()

    finding = probe.probe_layout(tmp_path)

    assert finding.is_blocking
    assert "holds v0" in finding.used


def test_without_capabilities_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_effective", lambda: 0)

    findings = by_name(probe.probe(cgroup_root=None, bpf_root=BPF_ROOT, map_bytes=0))

    assert list(findings) == ["libbpf", "capabilities"]
    assert findings["capabilities"].is_blocking


def test_tool_that_is_not_installed_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    findings = by_name(find_kube_proxy())

    assert not [what for what in findings if "tables" in what]


def test_running_agent_is_a_warning() -> None:
    """F54: two agents never write at once; check only says that one is there."""
    BPF_ROOT.mkdir(exist_ok=True)
    lock = os.open(BPF_ROOT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finding = other_agent(BPF_ROOT)
    finally:
        os.close(lock)
        BPF_ROOT.rmdir()

    assert finding.result is Result.WARNING


def test_machine_with_pins_is_usable_too() -> None:
    with Hooked.up() as hooked:
        findings = by_name(
            probe.probe(cgroup_root=hooked.cgroup, bpf_root=hooked.bpf_root, map_bytes=0)
        )

    assert findings["pinned layout"].used == "v1, adopted"
    assert not any(finding.is_blocking for finding in findings.values())
