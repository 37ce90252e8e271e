# SPDX-License-Identifier: Apache-2.0
"""Start, restart and removal of the pinned datapath: F40, F41, F44, F48, F51, F54, F57, D168."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hooked import Hooked
from tests.support.one_service import all_ids, dial, ids, program
from vipbee.datapath import pins, syscall
from vipbee.datapath.loader import load
from vipbee.datapath.pins import KINDS
from vipbee.datapath.programs import SOCKET_PROGRAMS
from vipbee.errors import EnvironmentUnusable


def link_of(hooked: Hooked, name: str) -> syscall.LinkInfo:
    fd = hooked.directory.get("links", name)
    assert fd is not None
    info = syscall.link_info(fd)
    os.close(fd)
    return info


def refusal_of(hooked: Hooked) -> EnvironmentUnusable:
    with pytest.raises(EnvironmentUnusable) as caught:
        hooked.load()
    assert caught.value.exit_code == 3
    assert caught.value.remedy
    return caught.value


# ---- adoption ---------------------------------------------------------------------------


def test_second_start_changes_nothing(fresh: Hooked) -> None:
    """Same maps, programs and links, by id; and the Service still works."""
    before = all_ids(fresh.directory)

    loaded = fresh.load()

    assert (loaded.adopted, loaded.replaced) == (True, ())
    assert all_ids(fresh.directory) == before
    assert set(before["links"]) == set(SOCKET_PROGRAMS)
    assert dial(fresh) == 0


def test_other_configuration_replaces_programs_through_their_links(fresh: Hooked) -> None:
    """F43: links and tables stay, every program is exchanged; the Service never went away."""
    before = all_ids(fresh.directory)

    loaded = fresh.load(bind_protection=True)

    after = all_ids(fresh.directory)
    assert set(loaded.replaced) == set(SOCKET_PROGRAMS)
    assert after["links"] == before["links"]
    assert {n for n in before["maps"] if after["maps"][n] != before["maps"][n]} == {"rodata"}
    for name in SOCKET_PROGRAMS:
        assert after["programs"][name] != before["programs"][name]
        assert link_of(fresh, name).program_id == after["programs"][name]
    assert dial(fresh) == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("links", "vipbee_connect4"),
        ("programs", "vipbee_connect4"),
        ("programs", "vipbee_stale"),
        ("maps", "frontends"),
    ],
)
def test_deleted_pin_is_repaired(fresh: Hooked, kind: str, name: str) -> None:
    """F57: whichever it was, after the next start and programming all is there and works."""
    before = all_ids(fresh.directory)
    fresh.directory.remove(kind, name)

    fresh.load()
    program(fresh)

    after = all_ids(fresh.directory)
    assert {k: set(v) for k, v in after.items()} == {k: set(v) for k, v in before.items()}
    assert dial(fresh) == 0


@pytest.mark.parametrize("name", ["frontends", "address_filter", "backends", "tcp_flows"])
def test_map_whose_pin_was_deleted_comes_back_with_its_content(fresh: Hooked, name: str) -> None:
    """F57: from the programs that still use it, so no hook ever meets an empty table."""
    before = all_ids(fresh.directory)["maps"]
    fresh.directory.remove("maps", name)

    loaded = fresh.load()

    assert all_ids(fresh.directory)["maps"] == before
    assert loaded.replaced == ()
    assert dial(fresh) == 0


def test_any_deleted_map_is_repaired(fresh: Hooked) -> None:
    """F57: six at a time; then a start, a programming and an audit, as agents do."""
    names = fresh.directory.names("maps")
    broken = []

    for at in range(0, len(names), 6):
        for name in names[at : at + 6]:
            fresh.directory.remove("maps", name)
        fresh.load()
        program(fresh)
        fresh.audit()
        if dial(fresh) or fresh.directory.names("maps") != names:
            broken.append(names[at : at + 6])

    assert broken == []


def test_link_that_was_detached_is_replaced(fresh: Hooked) -> None:
    """F57: its pin is there, but it does nothing any more."""
    fd = fresh.directory.get("links", "vipbee_connect4")
    assert fd is not None
    syscall.link_detach(fd)
    os.close(fd)
    detached = dial(fresh)

    loaded = fresh.load()

    assert detached == errno.ENETUNREACH
    assert loaded.replaced == ("vipbee_connect4",)
    assert dial(fresh) == 0


def test_link_and_pinned_program_that_disagree_are_brought_together(fresh: Hooked) -> None:
    """F40: killed between link update and pin."""
    other = fresh.directory.get("programs", "vipbee_connect6")
    assert other is not None
    fresh.directory.put("programs", "vipbee_connect4", other)
    os.close(other)

    loaded = fresh.load()

    pinned = ids(fresh.directory, "programs")["vipbee_connect4"]
    assert loaded.replaced == ("vipbee_connect4",)
    assert link_of(fresh, "vipbee_connect4").program_id == pinned


def test_link_to_a_removed_cgroup_is_replaced(bare: Hooked) -> None:
    """F48: pinned, and without effect."""
    bare.load()
    before = ids(bare.directory, "links")
    bare.cgroup.rmdir()
    bare.cgroup.mkdir()

    loaded = bare.load()

    after = ids(bare.directory, "links")
    assert set(loaded.replaced) == set(SOCKET_PROGRAMS)
    assert not set(before.values()) & set(after.values())
    assert {link_of(bare, n).cgroup_id for n in SOCKET_PROGRAMS} == {bare.cgroup.stat().st_ino}


def test_other_sizes_are_reported_and_not_applied(fresh: Hooked) -> None:
    """F44: what is pinned is never resized, or its content would be gone."""
    before = ids(fresh.directory, "maps")
    fresh.sizes = {**fresh.sizes, "frontends": 64}

    loaded = fresh.load()

    assert loaded.kept_sizes == {"frontends": (4096, 64)}
    assert ids(fresh.directory, "maps") == before


def test_socket_lb_off_detaches_and_on_attaches(fresh: Hooked) -> None:
    request = fresh.request()

    load(dataclasses.replace(request, socket_lb=False))
    off = dial(fresh), ids(fresh.directory, "links")
    load(request)
    on = dial(fresh), set(ids(fresh.directory, "links"))

    assert off == (errno.ENETUNREACH, {})
    assert on == (0, set(SOCKET_PROGRAMS))


# ---- refusal ------------------------------------------------------------------------------


def test_foreign_layout_is_refused_and_left_alone(fresh: Hooked) -> None:
    """F43, F41: exit code 3, the remedy named, forwarding as before."""
    (fresh.bpf_root / "v0" / "maps").mkdir(parents=True)
    before = all_ids(fresh.directory)

    error = refusal_of(fresh)

    assert "v0" in str(error)
    assert all_ids(fresh.directory) == before
    assert (fresh.bpf_root / "v0" / "maps").is_dir()
    assert dial(fresh) == 0


def test_map_of_another_shape_is_refused_and_left_alone(fresh: Hooked) -> None:
    """F41: never recreated silently."""
    slots = fresh.directory.get("maps", "slots")
    assert slots is not None
    fresh.directory.put("maps", "affinity", slots)
    os.close(slots)
    before = all_ids(fresh.directory)

    error = refusal_of(fresh)

    assert "affinity" in str(error)
    assert all_ids(fresh.directory) == before
    assert dial(fresh) == 0


def test_second_agent_is_refused_until_the_first_is_gone(fresh: Hooked) -> None:
    """F54: the lock is the process's, so a killed agent does not hold it."""
    holder = fresh.start(lambda ready: _hold(fresh.bpf_root, ready))

    refusal = str(refusal_of(fresh))
    held = pins.is_held(fresh.bpf_root)
    holder.stop()
    loaded = fresh.load()

    assert "another vipbee process" in refusal
    assert held
    assert not pins.is_held(fresh.bpf_root)
    assert loaded.adopted


def _hold(root: Path, ready: Callable[[], None]) -> None:
    with pins.exclusive(root):
        ready()
        os.read(os.pipe()[0], 1)  # for ever


def test_root_directory_is_closed_to_others(fresh: Hooked) -> None:
    """F51: 0700, also if somebody opened it."""
    made = stat.S_IMODE(fresh.bpf_root.stat().st_mode)
    fresh.bpf_root.chmod(0o755)

    fresh.load()

    assert (made, stat.S_IMODE(fresh.bpf_root.stat().st_mode)) == (0o700, 0o700)


def test_symbolic_link_as_root_is_refused(bare: Hooked) -> None:
    """F51"""
    target = bare.bpf_root.with_name(f"{bare.name}-target")
    target.mkdir(mode=0o755)
    bare.bpf_root.symlink_to(target)
    try:
        refusal_of(bare)
        untouched = list(target.iterdir()), stat.S_IMODE(target.stat().st_mode)
    finally:
        bare.bpf_root.unlink()
        target.rmdir()

    assert untouched == ([], 0o755)


def test_root_of_another_user_is_refused(bare: Hooked) -> None:
    """F51"""
    bare.bpf_root.mkdir(mode=0o700)
    os.chown(bare.bpf_root, 65534, 65534)

    refusal_of(bare)

    assert list(bare.bpf_root.iterdir()) == []


def test_missing_cgroup_is_refused_and_leaves_nothing(bare: Hooked) -> None:
    """F49"""
    request = bare.request()
    pins.prepare_root(bare.bpf_root)

    with pytest.raises(EnvironmentUnusable, match="cgroup"):
        load(dataclasses.replace(request, cgroup_root=bare.cgroup / "absent"))

    assert list(bare.bpf_root.iterdir()) == []


def test_directory_that_is_no_cgroup_is_refused(bare: Hooked, tmp_path: Path) -> None:
    """F49: the kernel would only say EBADF."""
    request = bare.request()
    pins.prepare_root(bare.bpf_root)

    with pytest.raises(EnvironmentUnusable, match="is not a cgroup v2 directory"):
        load(dataclasses.replace(request, cgroup_root=tmp_path))

    assert list(bare.bpf_root.iterdir()) == []


# ---- leftovers and removal ------------------------------------------------------------------


def test_leftovers_of_a_killed_start_are_removed(fresh: Hooked) -> None:
    """F39: a directory under construction, and a pin beside the one it was to replace."""
    (fresh.bpf_root / "new-v1" / "maps").mkdir(parents=True)
    slots = fresh.directory.get("maps", "slots")
    assert slots is not None
    syscall.obj_pin(slots, str(fresh.directory.path / "maps" / "new-slots"))
    syscall.obj_pin(slots, str(fresh.bpf_root / "new-v1" / "maps" / "slots"))
    os.close(slots)

    fresh.load()

    assert [p.name for p in fresh.bpf_root.iterdir()] == [fresh.directory.path.name]
    assert not list(fresh.bpf_root.rglob("new-*"))


def test_remove_everything_removes_exactly_ours(fresh: Hooked) -> None:
    """D168: another set of programs on the same cgroup stays, and works."""
    other_root = fresh.bpf_root.with_name(f"{fresh.name}-other")
    pins.prepare_root(other_root)
    load(dataclasses.replace(fresh.request(), bpf_root=other_root))
    other = pins.open_for_reading(other_root)
    assert other is not None
    try:
        before = all_ids(other)
        mine = sum(len(fresh.directory.names(kind)) for kind in KINDS)
        removed = pins.remove_everything(fresh.bpf_root)
        after = all_ids(other)
        number = dial(fresh)
    finally:
        pins.remove_everything(other_root)

    assert len(removed) == mine
    assert not fresh.bpf_root.exists()
    assert after == before
    assert number == errno.ENETUNREACH  # nobody translates: the other set has no Service
