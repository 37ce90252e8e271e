# SPDX-License-Identifier: Apache-2.0
"""Names of the labs that the tests here build.

One lab a module, named after this process: a run beside another one does not disturb
it, and the next run under the same name clears what a killed one left. Not after the
xdist worker: every worker is a process of its own.
"""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module")
def lab_name(request: pytest.FixtureRequest) -> str:
    """A name for this module's lab: at most 16 lower-case letters and digits."""
    module = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    return f"t{os.getpid() % 100000}{module.replace('_', '')[:8]}"
