# SPDX-License-Identifier: Apache-2.0
"""Start: adopt what is pinned, or create it; afterwards every hook runs our programs.

    first start   load → pin maps, programs, links in `new-v1/` → rename to `v1/`
    later starts  reuse the pinned maps → load → replace each link's program that differs
    killed        whatever was reached is consistent; the next start goes on from there

`prepare` does what takes time, before anything changes: the kernel's verifier.

A program is left alone only if all of this holds: its link runs the pinned program,
the code has the same tag, and it uses the very maps the new object uses, constants
included (`.rodata` is reused if its content is the one wanted). Everything else is
replaced by link update, so at no moment is a hook empty. Must not know what the maps
contain.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vipbee.abi import LAYOUT_VERSION
from vipbee.datapath import pins, syscall
from vipbee.datapath.features import PACKET_MAPS, Features
from vipbee.datapath.mounts import mount_of, mounts
from vipbee.datapath.objectfile import RODATA, ObjectFile
from vipbee.datapath.pins import PinDirectory
from vipbee.datapath.programs import PACKET_PROGRAMS, SOCKET_PROGRAMS, SWEEP_PROGRAMS
from vipbee.datapath.syscall import ATTACH_TYPES
from vipbee.errors import EnvironmentUnusable, KernelError

Sizes = Mapping[str, int]
"""max_entries by map name."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    bpf_root: Path
    cgroup_root: Path
    sizes: Sizes
    features: Features
    node_netns_cookie: int
    bind_protection: bool = False
    socket_lb: bool = True
    packet_lb: bool = False
    packet_constants: Mapping[str, int] = field(default_factory=dict)
    """Members of `struct config` by name; those of config.h stay otherwise."""

    @property
    def programs(self) -> tuple[str, ...]:
        """Everything to load; packet programs are attached by attach_tc, not here."""
        packets = PACKET_PROGRAMS if self.packet_lb else ()
        sweep = tuple(SWEEP_PROGRAMS) if self.packet_lb and self.features.sweep_iterators else ()
        return self.features.programs + packets + sweep


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a start did. Pins hold everything; no fd needs to stay open."""

    directory: PinDirectory
    adopted: bool  # False: maps are new and empty
    replaced: tuple[str, ...]  # programs attached anew or exchanged
    kept_sizes: Mapping[str, tuple[int, int]]  # map: (pinned, configured) where they differ
    packet_lb: bool = False  # the packet programs are pinned and may be attached
    packet_problem: str = ""  # why they are not, although they were asked for


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the kernel has verified and nobody runs yet."""

    request: LoadRequest
    existing: PinDirectory | None
    object_file: ObjectFile
    kept_sizes: Mapping[str, tuple[int, int]]
    packet_problem: str

    def bring_up(self) -> Loaded:
        """Pin and attach. EnvironmentUnusable for an unusable cgroup, else KernelError."""
        directory, request = self.existing, self.request
        if directory is not None:
            replaced = _bring_up_to_date(self.object_file, directory, request)
        else:
            with pins.creating(request.bpf_root) as fresh:
                replaced = _bring_up_to_date(self.object_file, fresh, request)
            directory = pins.open_for_reading(request.bpf_root)
            assert directory is not None
        return Loaded(
            directory,
            self.existing is not None,
            tuple(replaced),
            self.kept_sizes,
            request.packet_lb,
            self.packet_problem,
        )


def load(request: LoadRequest) -> Loaded:
    """Bring the pins and hooks to what `request` says. The caller holds `pins.exclusive`.

    Raises EnvironmentUnusable for an incompatible layout or an unusable cgroup, and
    KernelError if the kernel refuses the programs: then what ran before still runs.
    """
    with prepare(request) as prepared:
        return prepared.bring_up()


@contextlib.contextmanager
def prepare(request: LoadRequest) -> Iterator[Prepared]:
    """The part of `load` that takes time and changes nothing that is pinned or runs.

    Raises what `load` does, but for the cgroup.
    """
    pins.remove_unfinished(request.bpf_root)
    if others := pins.other_layouts(request.bpf_root):
        raise EnvironmentUnusable(
            f"{request.bpf_root} holds layout {', '.join(others)}, this version needs "
            f"{LAYOUT_VERSION}",
            remedy="run the vipbee version that made it, or `vipbee cleanup` "
            "(Services stop until the agent is ready again)",
        )
    existing = pins.open_for_reading(request.bpf_root)
    if existing is not None:
        existing.complete()
    try:
        object_file, kept_sizes = _verify(request, existing)
        problem = ""
    except KernelError as error:
        if not request.packet_lb:
            raise
        # The socket layer must not suffer from what the packet layer needs.
        problem = str(error).splitlines()[0]
        request = replace(request, packet_lb=False)
        object_file, kept_sizes = _verify(request, existing)
    with object_file:
        yield Prepared(request, existing, object_file, kept_sizes, problem)


def _verify(
    request: LoadRequest, existing: PinDirectory | None
) -> tuple[ObjectFile, dict[str, tuple[int, int]]]:
    """The loaded object, for the caller to close, and map sizes that stay as they are pinned."""
    with contextlib.ExitStack() as on_error:
        object_file = on_error.enter_context(ObjectFile.open())
        kept_sizes = _configure(object_file, request, existing)
        object_file.load()
        on_error.pop_all()
    return object_file, kept_sizes


def _configure(
    object_file: ObjectFile, request: LoadRequest, existing: PinDirectory | None
) -> dict[str, tuple[int, int]]:
    """Everything between open and load; returns map sizes that stay as they are pinned."""
    features = request.features
    object_file.keep_programs(request.programs)
    object_file.configure(
        node_netns_cookie=request.node_netns_cookie,
        has_set_retval=features.set_retval,
        has_socket_storage=features.socket_storage,
        bind_protection=request.bind_protection,
        packet_lb=request.packet_lb,
        has_coarse_clock=features.coarse_clock,
        has_fib_skip_neigh=features.fib_skip_neighbour,
        has_fib_mtu=features.fib_mtu,
        **request.packet_constants,
    )
    if not request.packet_lb:
        for name in PACKET_MAPS:
            object_file.skip_map(name)
    created = object_file.map_names
    object_file.set_max_entries({n: size for n, size in request.sizes.items() if n in created})
    kept: dict[str, tuple[int, int]] = {}
    if existing is None:
        return kept
    for name in object_file.map_names:
        if name == RODATA and not _has_constants(existing, object_file.rodata_bytes()):
            continue  # other constants: a new map, and all programs are replaced
        with _closing(existing.get("maps", name) or _recover(existing, name)) as fd:
            if fd is None:
                continue  # a new one is made
            info = syscall.map_info(fd)
            if (info.type, info.key_size, info.value_size) != object_file.map_shape(name):
                raise EnvironmentUnusable(
                    f"the pinned map {name} has another layout than this version's",
                    remedy="run the vipbee version that made it, or `vipbee cleanup` "
                    "(Services stop until the agent is ready again)",
                )
            object_file.reuse_map(name, fd)
            configured = request.sizes.get(name, info.max_entries)
            if configured != info.max_entries:
                kept[name] = (info.max_entries, configured)
    return kept


def _recover(existing: PinDirectory, name: str) -> int | None:
    """The map whose pin somebody removed, from a pinned program that still uses it.

    So the hooks never meet an empty table in its place. Looking up by id takes
    CAP_SYS_ADMIN: without it, or if nothing uses the map, None.
    """
    for program in existing.names("programs"):
        with _closing(existing.get("programs", program)) as program_fd:
            ids = syscall.program_info(program_fd).map_ids if program_fd is not None else ()
        for map_id in ids:
            try:
                fd = syscall.map_by_id(map_id)
            except OSError:
                return None
            if syscall.map_info(fd).name == name[:15]:
                return fd
            os.close(fd)
    return None


def _bring_up_to_date(
    object_file: ObjectFile, directory: PinDirectory, request: LoadRequest
) -> list[str]:
    """Pin what is missing, attach or exchange what differs; returns the programs changed.

    The order is for crashes: maps before the programs that use them, links before the
    pins that say what they run, and the constants last of all.
    """
    for name in object_file.map_names:
        if name != RODATA and name.lstrip(".") not in directory.names("maps"):
            directory.put("maps", name, object_file.map_fd(name))
    map_ids = {syscall.map_info(object_file.map_fd(n)).id for n in object_file.map_names}
    replaced = []
    with _closing(_open_cgroup(request.cgroup_root)) as cgroup_fd:
        assert cgroup_fd is not None
        for name in SOCKET_PROGRAMS:
            if not request.socket_lb:
                directory.remove("links", name)
            elif not _runs_wanted(object_file, directory, name, cgroup_fd, map_ids):
                _attach(object_file, directory, name, cgroup_fd)
                directory.put("programs", name, object_file.program_fd(name))
                replaced.append(name)
    for name in set(request.programs) - set(SOCKET_PROGRAMS):  # their links are not made here
        with _closing(directory.get("programs", name)) as pinned_fd:
            if pinned_fd is None or not _is_same(object_file, name, pinned_fd, map_ids):
                directory.put("programs", name, object_file.program_fd(name))
    with _closing(directory.get("maps", RODATA)) as pinned_fd:
        if pinned_fd is None or syscall.map_info(pinned_fd).id not in map_ids:
            directory.put("maps", RODATA, object_file.map_fd(RODATA))
    return replaced


def _runs_wanted(
    object_file: ObjectFile,
    directory: PinDirectory,
    name: str,
    cgroup_fd: int,
    map_ids: set[int],
) -> bool:
    with (
        _closing(directory.get("links", name)) as link_fd,
        _closing(directory.get("programs", name)) as pinned_fd,
    ):
        if link_fd is None or pinned_fd is None:
            return False
        link = syscall.link_info(link_fd)
        return (
            link.program_id == syscall.program_info(pinned_fd).id
            and link.cgroup_id == os.fstat(cgroup_fd).st_ino
            and _is_same(object_file, name, pinned_fd, map_ids)
        )


def _is_same(object_file: ObjectFile, name: str, pinned_fd: int, map_ids: set[int]) -> bool:
    """Same code on the very same maps; the tag is a hash of the code without its map fds."""
    pinned = syscall.program_info(pinned_fd)
    wanted = syscall.program_info(object_file.program_fd(name))
    return pinned.tag == wanted.tag and set(pinned.map_ids) <= map_ids


def _attach(object_file: ObjectFile, directory: PinDirectory, name: str, cgroup_fd: int) -> None:
    """Run the new program at this hook: through the link that is there, else a new one."""
    program_fd = object_file.program_fd(name)
    with _closing(directory.get("links", name)) as link_fd:
        # the link's cgroup is 0 once it is gone: such a link does nothing any more (F48)
        if (
            link_fd is not None
            and syscall.link_info(link_fd).cgroup_id == os.fstat(cgroup_fd).st_ino
        ):
            syscall.link_update(link_fd, program_fd)
            return
    try:
        created = syscall.link_create_cgroup(program_fd, cgroup_fd, ATTACH_TYPES[name])
    except OSError as error:
        raise KernelError(f"{name} cannot be attached", error.errno or 0) from error
    with _closing(created):
        directory.put("links", name, created)  # over an old link: that one detaches now


def _has_constants(directory: PinDirectory, wanted: bytes) -> bool:
    with _closing(directory.get("maps", RODATA)) as fd:
        if fd is None or syscall.map_info(fd).value_size != len(wanted):
            return False
        value = bytearray(len(wanted))
        syscall.map_lookup(fd, bytearray(4), value)
        return value == wanted


def _open_cgroup(path: Path) -> int:
    remedy = "name a cgroup v2 directory with --cgroup-root"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentUnusable(
            f"the cgroup {path} cannot be opened ({error.strerror})", remedy=remedy
        ) from error
    if mount_of(path.resolve(), mounts()).fstype != "cgroup2":
        os.close(fd)
        raise EnvironmentUnusable(f"{path} is not a cgroup v2 directory", remedy=remedy)
    return fd


@contextlib.contextmanager
def _closing(fd: int | None) -> Iterator[int | None]:
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)
