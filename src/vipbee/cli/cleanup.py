# SPDX-License-Identifier: Apache-2.0
"""`vipbee cleanup`: remove exactly what vipbee made."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from vipbee.cli.output import Format, FormatOption, count, print_document, say
from vipbee.cli.pinned import DEFAULT_BPF_ROOT, BpfRootOption
from vipbee.errors import EnvironmentUnusable

_LOCK_WAIT_S = 0.5


def cleanup(
    output: FormatOption = Format.TABLE, bpf_root: BpfRootOption = DEFAULT_BPF_ROOT
) -> None:
    """Remove everything that vipbee made, and nothing else.

    That is every program, link, map and sysctl entry. Services stop working at once,
    connections that are open go on. Refused while an agent runs; no error if there is nothing
    to remove.
    """
    removed = remove_pins(bpf_root)
    if output.is_document:
        print_document({"bpfRoot": str(bpf_root), "removed": removed}, output)
        return
    if not removed:
        print(f"nothing to remove: {bpf_root} holds no pins")
        return
    if output is Format.WIDE:
        print("\n".join(removed))
    kinds = {"links": "hook", "programs": "program", "maps": "map"}
    numbers = [
        count(sum(f"/{kind}/" in path for path in removed), noun) for kind, noun in kinds.items()
    ]
    say(f"removed {numbers[0]}, {numbers[1]} and {numbers[2]} from {bpf_root}")
    if sysctls := [entry for entry in removed if entry.startswith("net.")]:
        say(f"put back {' and '.join(sysctls)}")


def _remove_filters(bpf_root: Path) -> list[str]:
    """Programs on devices of this network namespace that no link holds (below 6.6)."""
    from vipbee.datapath import pins
    from vipbee.datapath.attach_tc import read_packet_hooks, remove_filters
    from vipbee.datapath.devices import read_devices
    from vipbee.datapath.netns_cookie import netns_cookie

    directory = pins.open_for_reading(bpf_root)
    if directory is None:
        return []
    devices = read_devices()
    found = [hook for hook in read_packet_hooks(directory, devices) if hook.how == "clsact"]
    remove_filters(directory, netns_cookie(), devices)
    return [
        f"{directory.path.name}/links/{devices[hook.ifindex].name}-{hook.direction}"
        for hook in found
    ]


def _give_back_sysctls(bpf_root: Path) -> list[str]:
    """NodePorts the agent reserved, and what it set at loopback, in this network namespace."""
    from vipbee.datapath import loopback, pins, reserved_ports

    directory = pins.open_for_reading(bpf_root)
    if directory is None:
        return []
    free_ports = partial(reserved_ports.reserve, directory, None)
    close_loopback = partial(loopback.refuse_own_addresses, directory)
    given_back = []
    for sysctl, give_back, what in (
        (reserved_ports.SYSCTL, free_ports, "keeps NodePorts"),
        (loopback.SYSCTL, close_loopback, "stays set"),
    ):
        try:
            if give_back():
                given_back.append(sysctl)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            print(f"vipbee: {sysctl} {what}: {reason}", file=sys.stderr)
    return given_back


def remove_pins(bpf_root: Path) -> list[str]:
    """Unpin everything below `bpf_root`; return the pins, relative to it, and sysctls."""
    from vipbee.datapath import pins
    from vipbee.datapath.mounts import mount_of, mounts

    try:
        if not bpf_root.is_dir():
            return []
        if mount_of(bpf_root.absolute(), mounts()).fstype != "bpf":
            raise EnvironmentUnusable(
                f"{bpf_root} is not on a bpffs", remedy="name the directory the agent was given"
            )
        if bpf_root.is_symlink():
            raise EnvironmentUnusable(
                f"{bpf_root} is a link, not a directory of pins",
                remedy="name the directory the agent was given",
            )
        pins.refuse_foreign(bpf_root)
        # `vipbee status` holds the lock for an instant to see whether it is free
        with pins.exclusive(bpf_root, wait_s=_LOCK_WAIT_S):
            filters = _remove_filters(bpf_root)
            sysctls = _give_back_sysctls(bpf_root)
            return [*filters, *sysctls, *pins.remove_everything(bpf_root)]
    except PermissionError:
        raise EnvironmentUnusable(f"{bpf_root} cannot be changed", remedy="run as root") from None
