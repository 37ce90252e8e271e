# SPDX-License-Identifier: Apache-2.0
"""The limit of open files (F67). In processes of their own: a hard limit is not raised again."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from vipbee.datapath.open_files import NEEDED, WANTED

CODE = """
import resource
from vipbee.datapath import open_files
from vipbee.errors import EnvironmentUnusable
open_files.WANTED = {wanted}
try:
    open_files.allow_many()
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
except EnvironmentUnusable as error:
    print(error)
"""


def limits_after(soft: int, hard: int, wanted: int = WANTED) -> str:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    done = subprocess.run(
        [sys.executable, "-c", CODE.format(wanted=wanted)],
        preexec_fn=lower,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("hard", [NEEDED, 4096])
def test_the_soft_limit_becomes_the_hard_one(hard: int) -> None:
    assert limits_after(256, hard) == f"{hard} {hard}"


def test_a_very_large_limit_is_not_taken_whole() -> None:
    """Whoever is started then inherits it, and may walk through all of it to close files."""
    assert limits_after(256, 4096, wanted=1024) == "1024 4096"
    assert limits_after(2048, 4096, wanted=1024) == "2048 4096"


def test_too_few_files_are_refused() -> None:
    """F67"""
    assert limits_after(64, NEEDED - 1) == (
        f"at most {NEEDED - 1} files may be open, and {NEEDED} are needed: "
        "raise the limit (ulimit -Hn, LimitNOFILE)"
    )
