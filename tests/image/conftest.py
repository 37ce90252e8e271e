# SPDX-License-Identifier: Apache-2.0
"""The image, built once a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image import built_image, missing_programs


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("building the image needs root")
    if missing := missing_programs():
        pytest.skip(f"{' and '.join(missing)} not installed: `make test-image` does")
    with built_image() as directory:
        yield directory
