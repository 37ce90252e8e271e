# SPDX-License-Identifier: Apache-2.0
"""Run a program that believes the machine is its own: on a node of a site, and only there.

It has the node's network namespace, a mount and a cgroup namespace of its own, and in them

    /run         a directory of the site         /run/bpf      a bpffs that ends with it
    /sys         empty of the machine's bpffs    /run/cgroup   cgroup2, from the node's cgroup down
    /proc/sys/kernel   read only                               and nothing above it

so what it pins, attaches to a cgroup or sets ends with it or with the site's namespaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BPFFS, CGROUP = "/run/bpf", "/run/cgroup"
# The root of the whole hierarchy, and only that, has no cgroup.events.
_PREPARE = f"""set -e
mount --bind /proc/sys/kernel /proc/sys/kernel
mount -o remount,bind,ro /proc/sys/kernel
mount -t sysfs sysfs /sys
mount --bind "$1" /run
mkdir -p {BPFFS} {CGROUP}
mount -t bpf bpf {BPFFS}
mount -t cgroup2 cgroup2 {CGROUP}
test -e {CGROUP}/cgroup.events
cd /run
shift
exec "$@"
"""


def secluded(argv: Sequence[str], run: Path) -> list[str]:
    """Wrap `argv`, to be started in the node's place; `run` is what it sees as /run."""
    return ["unshare", "--mount", "--cgroup", "sh", "-c", _PREPARE, "secluded", str(run), *argv]


def seen_from_outside(pid: int, path: str) -> Path:
    """A path of the program's, while it runs."""
    return Path(f"/proc/{pid}/root{path}")
