# SPDX-License-Identifier: Apache-2.0
"""Run a Python script in a virtual machine with another kernel.

Software emulation only (`-accel tcg`): the same everywhere, nested or not, and no
access to /dev/kvm is needed. The guest has no disk and no network; what it prints on
its serial console is the result.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import initramfs
from tests.support.debian_kernel import DebianKernel
from tests.support.guest_init import RESULT_MARK, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
QEMU = "qemu-system-x86_64"
NO_CMPXCHG16B = "clearcpuid=141"  # X86_FEATURE_CX16, word 4 bit 13
"""After that instruction QEMU 7.2 now and then leaves rubbish in EFLAGS, and the guest dies
where they are restored next: one boot in three, in its memory allocations. Only the kernel
is told: numpy insists on a processor that has it."""
GUEST_SCRIPT = "/guest/script.py"
_PATIENCE = 8
MODULES = ("veth", "sch_ingress", "cls_bpf", "tcp_diag", "udp_diag", "inet_diag")


class GuestFailedError(Exception):
    """The guest did not come to a result; the message ends with its console."""


@dataclass(frozen=True, kw_only=True)
class Guest:
    """What runs in the machine, apart from its kernel."""

    script: Path
    """Its `main()` returns something JSON can carry."""
    requirements: tuple[str, ...] = ()
    """Distributions to take along from this environment, with what they require."""
    files: tuple[tuple[Path, str], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    """Of the kernel, beyond those that every guest has."""
    memory_mib: int = 640


def run(kernel: DebianKernel, guest: Guest, *, timeout_s: float = 240) -> object:
    """Boot, run `guest.script`, and return what its `main()` returned.

    `timeout_s`: of processor time, so that a busy machine does not end a guest that works; and
    eight times as long by the clock.
    """
    with tempfile.TemporaryDirectory(prefix="vipbee-vm-") as folder:
        archive = Path(folder) / "initramfs"
        _write_initramfs(archive, kernel, guest)
        console = _boot(kernel.image, archive, guest.memory_mib, timeout_s)
    results = [line for line in console.splitlines() if line.startswith(RESULT_MARK)]
    if not results:
        raise GuestFailedError(f"kernel {kernel.release} gave no result\n{console[-6000:]}")
    outcome = json.loads(results[-1].removeprefix(RESULT_MARK))
    if "raised" in outcome:
        raise GuestFailedError(f"kernel {kernel.release}: {outcome['raised']}\n{console[-6000:]}")
    return outcome["returned"]


def missing_tools() -> str | None:
    """Say what this machine lacks to run guests; None: nothing."""
    if os.uname().machine != "x86_64":
        return "the guests are x86-64 machines with this machine's own programs"
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed (package qemu-system-x86)"
    return None


def _write_initramfs(path: Path, kernel: DebianKernel, guest: Guest) -> None:
    with path.open("wb") as output:
        archive = initramfs.Initramfs(output)
        for folder in ("/proc", "/sys", "/dev", "/tmp", "/run", "/root"):
            archive.add_directory(folder)
        archive.add_device("/dev/console", 5, 1)
        archive.add_device("/dev/null", 1, 3)
        python = initramfs.add_python(archive)
        initramfs.add_distributions(archive, guest.requirements)
        archive.add_tree(ROOT / "src" / "vipbee", f"{initramfs.GUEST_SOURCE}/vipbee")
        for library in _libbpf():
            archive.add_program(library)
        modules = initramfs.add_modules(archive, kernel.modules, (*MODULES, *guest.modules))
        for source, target in (*guest.files, (guest.script, GUEST_SCRIPT)):
            archive.add_file(source, target)
        search = [initramfs.GUEST_SOURCE, initramfs.GUEST_SITE]
        settings = {
            "script": GUEST_SCRIPT,
            "modules": modules,
            "path": search,
            "environment": {
                "HOME": "/root",
                "LANG": "C.UTF-8",
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": ":".join(search),
                **guest.environment,
            },
        }
        archive.add_bytes(SETTINGS, json.dumps(settings).encode())
        init = (Path(__file__).parent / "guest_init.py").read_bytes()
        archive.add_bytes("/init", f"#!{python} -u\n".encode() + init)
        archive.finish()


def _libbpf() -> Iterable[Path]:
    """libbpf.so.1, as the dynamic linker finds it here."""
    ctypes.CDLL("libbpf.so.1")
    with open("/proc/self/maps") as maps:
        folders = {Path(line.split()[-1]).parent for line in maps if "/libbpf.so" in line}
    return [folder / "libbpf.so.1" for folder in folders]


def _boot(image: Path, archive: Path, memory_mib: int, timeout_s: float) -> str:
    """Run the machine to its end; return everything it wrote on the serial console."""
    command = [
        *(QEMU, "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1"),
        *("-m", str(memory_mib), "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-net", "none", "-serial", "stdio", "-monitor", "none"),
        *("-kernel", str(image), "-initrd", str(archive)),
        "-append",
        "console=ttyS0 panic=-1 loglevel=4 rootfstype=ramfs mitigations=off random.trust_cpu=on "
        + NO_CMPXCHG16B,
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output = _output_of(process, timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        text = output.decode(errors="replace")
        raise GuestFailedError(
            f"no end after {timeout_s:g} s of processor time\n{text[-6000:]}"
        ) from None
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return output.decode(errors="replace").replace("\r\n", "\n")


def _output_of(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """Wait for its end; raises TimeoutExpired."""
    deadline = time.monotonic() + _PATIENCE * timeout_s
    while True:
        try:
            return process.communicate(timeout=1)[0]
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline or _processor_s(process.pid) > timeout_s:
                raise


def _processor_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
