# SPDX-License-Identifier: Apache-2.0
"""What is loaded is refused, by the verifier or for want of memory: F46, F64. What ran runs on."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest

from tests.support.hooked import Hooked
from tests.support.memory_limit import limited_memory
from tests.support.one_service import all_ids, dial
from tests.support.weakened import compile_weakened
from vipbee.datapath import pins
from vipbee.datapath.loader import load
from vipbee.datapath.objectfile import ObjectFile
from vipbee.errors import KernelError

HOOK = "connect(ctx, 4, &dialled) : ALLOW"
REFUSED = "connect(ctx, 4, &dialled) : 7"
"""A hook may answer 0 or 1."""
TOO_MANY = 1 << 31
LITTLE, MUCH = 48 << 20, 1 << 22  # bytes; entries of some 100 bytes


@pytest.fixture(scope="module")
def refused_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgrade that this kernel's verifier does not take."""
    return compile_weakened([("sock.bpf.c", HOOK, REFUSED)], tmp_path_factory.mktemp("refused"))


@pytest.fixture
def refused_object(refused_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ObjectFile.open
    monkeypatch.setattr(ObjectFile, "open", lambda: opened(refused_path))


def test_a_refused_upgrade_leaves_the_old_programs_running(
    fresh: Hooked, refused_object: None
) -> None:
    """F46: no map, program or link is another, and the verifier's words are told."""
    before = all_ids(fresh.directory)

    with pytest.raises(KernelError, match="should have been in") as caught:
        fresh.load()

    assert caught.value.errno == errno.EINVAL
    assert all_ids(fresh.directory) == before
    assert dial(fresh) == 0


def test_a_refused_first_start_leaves_nothing(bare: Hooked, refused_object: None) -> None:
    """F46"""
    with pytest.raises(KernelError):
        bare.load()

    assert list(bare.bpf_root.iterdir()) == []


def test_maps_that_cannot_be_made_leave_nothing(bare: Hooked) -> None:
    """F64: more than any machine has."""
    bare.sizes = {**bare.sizes, "affinity": TOO_MANY}

    with pytest.raises(KernelError):
        bare.load()

    assert list(bare.bpf_root.iterdir()) == []


def test_memory_for_the_packet_layer_that_is_lacking_costs_sockets_nothing(fresh: Hooked) -> None:
    """F64: it is switched on later, and does not fit; neither program nor table of the other."""
    before = all_ids(fresh.directory)
    sizes = {**fresh.sizes, "conntrack_outside": TOO_MANY}

    with pins.exclusive(fresh.bpf_root):
        loaded = load(dataclasses.replace(fresh.request(), packet_lb=True, sizes=sizes))

    assert not loaded.packet_lb
    assert loaded.packet_problem
    assert loaded.replaced == ()
    assert all_ids(fresh.directory) == before
    assert dial(fresh) == 0


def test_a_limit_of_memory_refuses_maps_and_kills_nobody(bare: Hooked) -> None:
    """F64: maps are charged to the memory cgroup of who makes them (5.11)."""
    bare.sizes = {**bare.sizes, "affinity": MUCH}
    request = bare.request()
    pins.prepare_root(bare.bpf_root)

    def start() -> int:
        """0, or the errno of what the kernel refused."""
        with pins.exclusive(bare.bpf_root):
            try:
                load(request)
            except KernelError as error:
                return error.errno
        return 0

    with limited_memory(bare.name, LITTLE) as enter:

        def start_limited() -> int:
            enter()
            return start()

        number = bare.run(start_limited)

    assert number == errno.ENOMEM
    assert list(bare.bpf_root.iterdir()) == []
    assert bare.run(start) == 0  # without the limit there is room
