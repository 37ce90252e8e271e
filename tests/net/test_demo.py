# SPDX-License-Identifier: Apache-2.0
"""`vipbee demo` from start to end: every claim is measured, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from vipbee.lab import cgroups, teardown
from vipbee.lab.agent import cli_command
from vipbee.lab.blueprint import lab_cgroup, namespace_prefix
from vipbee.lab.namespaces import list_namespaces
from vipbee.lab.place import child_environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the demo needs root")

NAME = f"d{os.getpid() % 100000}"
DEMO_LIMIT_S = 60


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    teardown.tear_down(NAME)
    yield
    teardown.tear_down(NAME)


def start_demo() -> subprocess.Popen[str]:
    return subprocess.Popen(
        cli_command(["demo", "--fast", "--name", NAME]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(),
    )


def leftovers() -> list[str]:
    paths = (
        cgroups.find_cgroup2() / lab_cgroup(NAME),
        teardown.run_directory(NAME),
        teardown.pin_directory(NAME),
    )
    return list_namespaces(namespace_prefix(NAME)) + [str(p) for p in paths if p.exists()]


def test_every_claim_of_the_demo_is_true_and_it_cleans_up() -> None:
    """Rules R33 (spread), R121 (peer and reply source are the VIP), R50 (NodePort inside)."""
    output, _ = (demo := start_demo()).communicate(timeout=DEMO_LIMIT_S)

    assert demo.returncode == 0, output
    assert "claims checked and true" in output
    assert "\x1b" not in output  # plain text when piped
    assert leftovers() == []


def test_claims_can_be_had_as_a_document() -> None:
    """interface.md §4: nothing but the document on stdout."""
    done = subprocess.run(
        cli_command(["demo", "--fast", "--name", NAME, "-o", "json"]),
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=DEMO_LIMIT_S,
        check=False,
    )

    claims = json.loads(done.stdout)["claims"]
    assert all(claim["isTrue"] for claim in claims), claims
    assert f"All {len(claims)} claims" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_cleans_up(number: signal.Signals) -> None:
    demo = start_demo()
    assert demo.stdout is not None
    next(line for line in demo.stdout if line.startswith("2."))  # in the middle of a step

    demo.send_signal(number)
    demo.communicate(timeout=DEMO_LIMIT_S)

    assert demo.returncode != 0
    assert leftovers() == []
