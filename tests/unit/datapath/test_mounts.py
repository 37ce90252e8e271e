# SPDX-License-Identifier: Apache-2.0
"""The mount table, and which cgroup v2 directory is the host's root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vipbee.datapath.mounts import Mount, find_cgroup_root, mount_of, mounts
from vipbee.errors import EnvironmentUnusable


def test_mount_table_is_read_with_optional_fields_and_escapes(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:26 /../.. /mnt/a\\040b rw shared:2 master:1 - cgroup2 cgroup2 rw\n"
    )

    assert mounts(mountinfo) == [
        Mount("/", Path("/"), "ext4"),
        Mount("/../..", Path("/mnt/a b"), "cgroup2"),
    ]


def test_mount_points_may_be_any_bytes(tmp_path: Path) -> None:
    """A user can mount a FUSE file system anywhere in his home; no command may trip over it."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(b"31 22 0:40 / /home/u/\xff\xc3\xbc rw - fuse.x x rw\n")

    (mount,) = mounts(mountinfo)

    assert os.fsencode(mount.point) == b"/home/u/\xff\xc3\xbc"


def test_newest_of_the_mounts_above_a_path_holds_it() -> None:
    table = [
        Mount("/", Path("/"), "ext4"),
        Mount("/", Path("/sys/fs/bpf"), "tmpfs"),
        Mount("/", Path("/sys/fs/bpf"), "bpf"),
    ]

    assert mount_of(Path("/sys/fs/bpf/vipbee"), table).fstype == "bpf"
    assert mount_of(Path("/sys/fs/bpfx"), table).fstype == "ext4"


def test_root_of_a_cgroup_namespace_is_not_the_hosts(tmp_path: Path) -> None:
    """F49: there the kernel shows "/" as the mount's root, in containers mostly."""
    with pytest.raises(EnvironmentUnusable, match="only a part") as raised:
        find_cgroup_root([Mount("/", tmp_path, "cgroup2")])

    assert "--cgroup-root" in raised.value.remedy


def test_machine_without_cgroup_v2_is_told_how_to_mount_it() -> None:
    with pytest.raises(EnvironmentUnusable, match="no cgroup v2") as raised:
        find_cgroup_root([Mount("/", Path("/"), "ext4")])

    assert "mount -t cgroup2" in raised.value.remedy
