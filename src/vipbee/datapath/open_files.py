# SPDX-License-Identifier: Apache-2.0
"""How many files this process and its children may have open."""

from __future__ import annotations

import resource

from vipbee.errors import EnvironmentUnusable

NEEDED = 512
"""Maps and watches take about 80, 100 more while the datapath is loaded, probes at most 256."""
WANTED = 1 << 16
"""Each healthCheckNodePort is a listening socket, and there may be thousands."""


def allow_many() -> None:
    """Take what the hard limit gives; EnvironmentUnusable if that is too little (F67)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < NEEDED:
        raise EnvironmentUnusable(
            f"at most {hard} files may be open, and {NEEDED} are needed",
            remedy="raise the limit (ulimit -Hn, LimitNOFILE)",
        )
    if soft < min(hard, WANTED):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, WANTED), hard))
