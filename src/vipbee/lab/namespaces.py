# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: make, wire, enter, remove.

A namespace is entered by a short-lived thread (`setns` counts for the calling thread
only), so the process itself never leaves its own. `ip netns exec` is not used: it
remounts /sys, and bpffs and cgroup2 vanish from what runs inside.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from vipbee.errors import KernelError
from vipbee.lab.errors import LabError
from vipbee.lab.programs import find_program
from vipbee.lab.wiring import NamespaceWiring, Wiring

NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def namespace_path(name: str) -> Path:
    return NETNS_DIR / name


def list_namespaces(prefix: str) -> list[str]:
    if not NETNS_DIR.is_dir():
        return []
    return sorted(path.name for path in NETNS_DIR.iterdir() if path.name.startswith(prefix))


def make_namespaces(names: Iterable[str]) -> None:
    _run_ip([f"netns add {name}" for name in names])


def remove_namespace(name: str) -> None:
    """Unmount and unlink; devices inside go with it. Fine if it is not there."""
    path = namespace_path(name)
    _libc.umount2(os.fsencode(path), MNT_DETACH)  # EINVAL: a plain file left by a killed run
    path.unlink(missing_ok=True)


def wire_namespaces(wiring: Wiring, *, fabric: str) -> None:
    """Sysctls everywhere, then the links, then addresses and routes.

    In this order, so that devices are born with the right sysctls and every gateway
    is reachable when its route is added.
    """
    for name, plan in wiring.namespaces.items():
        run_inside(name, lambda plan=plan: _write_sysctls(plan))  # type: ignore[misc]
    run_inside(fabric, lambda: _run_ip(wiring.links))
    for name, plan in wiring.namespaces.items():
        run_inside(name, lambda plan=plan: _run_plan(plan))  # type: ignore[misc]


def run_inside(name: str, function: Callable[[], T]) -> T:
    """Call `function` with its sockets, /proc/sys/net and children in namespace `name`.

    The cgroup stays the caller's: what runs here is not seen by an agent's hooks.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            _enter(name)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name=f"netns {name}", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(name: str) -> None:
    fd = os.open(namespace_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET):
            raise KernelError(f"namespace {name} cannot be entered", ctypes.get_errno())
    finally:
        os.close(fd)


def _write_sysctls(plan: NamespaceWiring) -> None:
    for key, value in plan.sysctls.items():
        Path("/proc/sys/net", key).write_text(value)


def _run_plan(plan: NamespaceWiring) -> None:
    _run_ip(plan.commands)
    if plan.bridge_commands:
        _run_ip(plan.bridge_commands, program="bridge")


def _run_ip(lines: Iterable[str], *, program: str = "ip") -> None:
    """Feed `lines` to one `ip -batch` (or `bridge`) in the calling thread's namespace."""
    script = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        [find_program(program) or program, "-batch", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{program} refused: {done.stderr.strip()} in:\n{script}")
