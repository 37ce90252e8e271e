# SPDX-License-Identifier: Apache-2.0
"""`--cilium-agent PATH`: how an agent is run and measured, with a program that stands in for it.

With CILIUM_AGENT in the environment the same with the real one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.compare import page, result
from bench.compare.cilium import CiliumAgent, title_of
from bench.compare.depth import DEPTHS
from bench.compare.place import Site, build
from bench.compare.proxies import CannotError, count_rules
from bench.compare.roster import candidates, skipped
from bench.compare.run import Run
from bench.compare.services import Cluster
from bench.compare.sites import sites
from tests.support.cilium_stand_in import VERSION
from tests.support.eventually import eventually
from tests.support.foreign_program import attached_programs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
ROOT = Path(__file__).parents[2]
REAL = os.environ.get("CILIUM_AGENT")


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    if REAL:
        return Path(REAL)
    command = f"exec env PYTHONPATH={ROOT}:{ROOT / 'src'} {sys.executable}"
    return _program(tmp_path, f'{command} -m tests.support.cilium_stand_in "$@"')


@pytest.fixture
def site(tmp_path: Path, lab_name: str) -> Iterator[Site]:
    site = Site(lab_name, build(tmp_path))
    yield site
    site.close()


def test_an_agent_is_measured_like_everybody(agent: Path, tmp_path: Path) -> None:
    # alone: the sites of the others are named alike in tests/net/test_bench_compare.py
    chosen = [who for who in candidates(None, cilium_agent=agent) if who.key == "cilium"]
    depth = DEPTHS["smoke"]
    (size,) = depth.sizes
    variants = [result.Variant(who.key, who.title) for who in chosen]
    found = result.new_result(depth.name, variants, [size])

    with sites(chosen, build(tmp_path)) as proxies:
        run = Run(depth, found, lambda _: None)
        for family in (4, 6):
            run.measure(proxies, size, family)

    assert {(miss.figure, miss.variant) for miss in found.missing} == {("program_sync", "cilium")}
    failed = [m.key for m in found.measurements if m.failed and m.figure != "change"]
    assert failed == [] or REAL  # the harness marks them; whose fault they are is not tested here
    for family in (4, 6):
        for figure, place in (
            ("connect_p50", "first"),
            ("connect_p50", "last"),
            ("resolve_p50", "last"),
            ("node_port_p50", "local"),
            ("node_port_p50", "remote"),
            ("program", ""),
        ):
            assert found.find(figure, "cilium", size, family=family, place=place), figure
        entries = found.find("map_entries", "cilium", size, family=family)
        assert entries is not None
        assert entries.value >= size
    assert found.find("change", "cilium", size)
    assert "* **Cilium" in page.write(found, tmp_path / "docs").read_text()


def test_what_an_agent_made_ends_with_it(agent: Path, site: Site) -> None:
    proxy = CiliumAgent(site, "cilium", "Cilium", agent)

    proxy.program(Cluster(3, 4, site.servers(4)), 30.0)
    during = (attached_programs(site.node.cgroup) > 0, _devices(site), count_rules(site) > 0)
    proxy.clear()

    assert during == (True, {"cilium_host", "cilium_net"}, True)
    eventually(lambda: attached_programs(site.node.cgroup) == 0, what="no program is attached")
    assert _devices(site) == set()
    assert count_rules(site) == 0


def test_an_agent_that_ended_is_missing_with_its_last_word(tmp_path: Path, site: Site) -> None:
    program = _program(tmp_path, "echo 'Error: unknown flag: --lb-state-file' >&2; exit 1")
    proxy = CiliumAgent(site, "cilium", "Cilium", program)

    with pytest.raises(
        CannotError, match="it ended with exit code 1: Error: unknown flag: --lb-state-file"
    ):
        proxy.program(Cluster(3, 4, site.servers(4)), 10.0)
    proxy.clear()


def test_an_agent_that_does_not_serve_is_missing_with_its_last_complaint(
    tmp_path: Path, site: Site
) -> None:
    """As at 65,536 Services, which are more than it has ids for."""
    said = 'time=1 level=warn msg="Updating frontend failed" error="no ID available"'
    program = _program(tmp_path, f"echo '{said}'; echo 'time=2 level=info msg=fine'; sleep 60")
    proxy = CiliumAgent(site, "cilium", "Cilium", program)

    with pytest.raises(
        CannotError,
        match='did not answer within 1 s; its log: "Updating frontend failed" error="no ID avail',
    ):
        proxy.program(Cluster(3, 4, site.servers(4)), 1.0)
    proxy.clear()


def test_a_missing_agent_is_missing_by_name(tmp_path: Path, site: Site) -> None:
    proxy = CiliumAgent(site, "cilium", "Cilium", tmp_path / "none")

    with pytest.raises(CannotError, match="none is no program"):
        proxy.program(Cluster(3, 4, site.servers(4)), 10.0)


def test_without_an_agent_cilium_is_skipped_by_name() -> None:
    (skip,) = skipped(cilium_agent=None)

    assert skip.title == "Cilium"
    assert "--cilium-agent PATH" in skip.why
    assert "cilium" not in {who.key for who in candidates(None)}


def test_the_title_has_the_version(agent: Path, tmp_path: Path) -> None:
    assert title_of(agent) == f"Cilium {VERSION}" or REAL
    assert title_of(tmp_path / "none") == "Cilium"
    assert title_of(_program(tmp_path, "echo something else")) == "Cilium"


def _program(directory: Path, script: str) -> Path:
    path = directory / "cilium-agent"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _devices(site: Site) -> set[str]:
    """Those that an agent makes."""
    lines = site.node.run(["ip", "-o", "link"]).stdout.splitlines()
    names = {line.split(":")[1].strip().partition("@")[0] for line in lines}
    return {name for name in names if name.startswith("cilium")}
