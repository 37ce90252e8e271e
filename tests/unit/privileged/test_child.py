# SPDX-License-Identifier: Apache-2.0
"""Processes of the helper: what they say when they cannot be had, or fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from vipbee.errors import EnvironmentUnusable
from vipbee.privileged.child import in_child


def test_a_process_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """F67: pids.max, TasksMax."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)

    with pytest.raises(EnvironmentUnusable) as caught:
        in_child(bytes, lambda: None)

    assert str(caught.value) == (
        "no process can be started (Resource temporarily unavailable): "
        "raise the limit of processes (pids.max, TasksMax), or free memory"
    )


FAILS = """
from vipbee.errors import UsageError
from vipbee.privileged.child import in_child

def fail():
    raise {error}

try:
    in_child(fail, lambda: None)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("UsageError('what is wrong')", "vipbee: what is wrong\n"),
        ("KeyError('a programming error')", "KeyError: 'a programming error'\n"),
    ],
)
def test_what_a_process_dies_of_is_in_the_log(error: str, said: str) -> None:
    command = [sys.executable, "-c", FAILS.format(error=error)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "a process of the privileged helper has died\n"
    assert done.stderr.endswith(said)
    assert ("Traceback" in done.stderr) is ("KeyError" in error)
