# SPDX-License-Identifier: Apache-2.0
"""One boot a kernel, shared by every test here; two machines at a time.

Where a kernel cannot be had its tests are skipped by name with the reason; with CI=true
that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.kernels.boots import SUITES, Report, boot
from tests.support.debian_kernel import KernelUnavailableError


@pytest.fixture(scope="session", params=SUITES)
def kernel(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture(scope="session")
def boots(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Report]]]:
    """Boot what the selected tests need; the slowest, the oldest, first."""
    wanted = {
        str(item.callspec.params["kernel"]): None
        for item in request.session.items
        if isinstance(item, pytest.Function) and "boots" in item.fixturenames
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            version: pool.submit(boot, version) for version in sorted(wanted, key=[*SUITES].index)
        }


@pytest.fixture(scope="session")
def report(kernel: str, boots: dict[str, Future[Report]]) -> Report:
    """What the guest saw."""
    try:
        return boots[kernel].result()
    except KernelUnavailableError as error:
        reason = f"kernel {kernel} of Debian {SUITES[kernel]} cannot be had: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
