# SPDX-License-Identifier: Apache-2.0
"""PID 1 of a test's virtual machine: prepare the system, run one script, power off.

Runs inside the guest only, from an initramfs made by `vm.py`; standard library only.
The script's `main()` returns what the test wants to know, as JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import runpy
import socket
import struct
import sys
import traceback

RESULT_MARK = "GUEST-RESULT "
SETTINGS = "/guest/settings.json"
MOUNTS = (
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SYS_FINIT_MODULE = 313  # x86-64, the only machine these guests emulate
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567

libc = ctypes.CDLL(None, use_errno=True)


def mount_all() -> None:
    for kind, target in MOUNTS:
        os.makedirs(target, exist_ok=True)
        if libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None):
            print(f"mount {target}: {os.strerror(ctypes.get_errno())}")


def load_modules(paths: list[str]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        if libc.syscall(SYS_FINIT_MODULE, descriptor, b"", 0):
            print(f"module {path}: {os.strerror(ctypes.get_errno())}")
        os.close(descriptor)


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def run_script(settings: dict[str, object]) -> object:
    try:
        load_modules(settings["modules"])  # type: ignore[arg-type]
        raise_loopback()
        sys.argv = [str(settings["script"])]
        return {"returned": runpy.run_path(str(settings["script"]))["main"]()}
    except BaseException:
        return {"raised": traceback.format_exc()}


def main() -> None:
    mount_all()
    with open(SETTINGS) as file:
        settings = json.load(file)
    os.environ.update(settings["environment"])
    sys.path[:0] = settings["path"]
    outcome = run_script(settings)
    # A line of its own, whatever the script or the kernel left on the current one.
    print(f"\n{RESULT_MARK}{json.dumps(outcome)}", flush=True)
    os.sync()
    libc.reboot(REBOOT_RESTART)  # qemu runs with -no-reboot: this ends it


if __name__ == "__main__":
    main()
