# SPDX-License-Identifier: Apache-2.0
"""The rights of this process, as the kernel will check them."""

from __future__ import annotations

from pathlib import Path

from vipbee.errors import EnvironmentUnusable

_STATUS = Path("/proc/self/status")
REMEDY = "run as root, or grant these capabilities"

# bits of linux/capability.h
_SETGID, _SETUID, _SETPCAP = 6, 7, 8
_NET_ADMIN, _SYS_ADMIN, _PERFMON, _BPF = 12, 21, 38, 39
_NEEDED = (("CAP_BPF", _BPF), ("CAP_PERFMON", _PERFMON), ("CAP_NET_ADMIN", _NET_ADMIN))


def lacking() -> list[str]:
    """Names of the capabilities that are needed and not effective."""
    held = _effective()
    # before 5.8 CAP_SYS_ADMIN was the first two, and it still implies them
    implied = {_BPF, _PERFMON} if may_administer() else set()
    return [name for name, bit in _NEEDED if not held >> bit & 1 and bit not in implied]


def lacking_to_change_user() -> list[str]:
    """What it takes to become another user for good, as far as it is not effective."""
    held = _effective()
    needed = (("CAP_SETGID", _SETGID), ("CAP_SETUID", _SETUID), ("CAP_SETPCAP", _SETPCAP))
    return [name for name, bit in needed if not held >> bit & 1]


def may_administer() -> bool:
    """CAP_SYS_ADMIN: to mount bpffs and to enter pods' network namespaces."""
    return bool(_effective() >> _SYS_ADMIN & 1)


def require() -> None:
    """Raise EnvironmentUnusable if something is lacking: the kernel's own EPERM says less."""
    if names := lacking():
        raise EnvironmentUnusable(f"{', '.join(names)} not effective", remedy=REMEDY)


def _effective() -> int:
    """Whoever is started looks here first, so a missing /proc is noticed here (F67)."""
    try:
        status = _STATUS.read_text()
    except FileNotFoundError:
        raise EnvironmentUnusable(
            "there is no /proc", remedy="mount it: mount -t proc proc /proc"
        ) from None
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
