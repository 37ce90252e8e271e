# SPDX-License-Identifier: Apache-2.0
"""Which programs of the system a lab needs, and the Debian packages they are in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from vipbee.errors import EnvironmentUnusable

PACKAGES = {
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "ss": "iproute2",
}


def require_programs(names: Iterable[str]) -> None:
    """Raise EnvironmentUnusable with the packages to install if any of them is missing."""
    missing = [name for name in sorted(set(names)) if not find_program(name)]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise EnvironmentUnusable(
            f"{', '.join(missing)} cannot be found", remedy=f"apt install {packages}"
        )


def find_program(name: str) -> str | None:
    """Path of a program, as `search_path` has it."""
    return shutil.which(name, path=search_path())


def search_path() -> str:
    """The caller's PATH and where Debian keeps servers, which `su` and cron leave out."""
    return os.pathsep.join(filter(None, [os.environ.get("PATH"), "/usr/sbin", "/sbin"]))
