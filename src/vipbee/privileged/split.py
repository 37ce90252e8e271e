# SPDX-License-Identifier: Apache-2.0
"""One process becomes two: the helper is forked off first, then this one gives up its rights.

    with split(config) as hands:        the lock is held, the helper runs
        import what the agent is made of
        hands.give_up_rights()          from here on nobody
        work, through hands.privileges and hands.files

In this order: the helper shares as little memory as there is by then, and the agent's modules
are imported while it may still read them, wherever they are installed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vipbee.config import AgentConfig
from vipbee.datapath import capabilities, open_files, pins
from vipbee.errors import EnvironmentUnusable, VipbeeError
from vipbee.privileged.channel import Channel
from vipbee.privileged.child import fork, run_child
from vipbee.privileged.client import Helper, SharedFiles
from vipbee.privileged.drop import CAP_BPF, drop_rights, maps_need_capability
from vipbee.privileged.operations import Operations, Privileges
from vipbee.privileged.requests import Started
from vipbee.privileged.user import User, find_user
from vipbee.sources.files import OWN_RIGHTS, Files

LOCK_WAIT_S = 5.0  # a rolling restart overlaps for a moment


class Hands:
    """What the agent does its work with: its own rights, or those of a helper."""

    def __init__(self, privileges: Privileges, files: Files, user: User | None) -> None:
        self.privileges = privileges
        self.files = files
        self.user = user
        """Who the agent becomes; None: it keeps its rights."""
        self.why_privileged = ""
        """A sentence, if rights are kept that nobody asked to keep."""

    def give_up_rights(self) -> None:
        """For good. Before any thread is started."""
        if self.user is None:
            return
        keep = (CAP_BPF,) if maps_need_capability() else ()
        try:
            drop_rights(self.user, keep=keep)
        except OSError as error:
            raise EnvironmentUnusable(
                f"the agent cannot become user {self.user.name} ({error.strerror})",
                remedy="grant CAP_SETUID, CAP_SETGID and CAP_SETPCAP, or use --privileged",
            ) from None


@contextlib.contextmanager
def split(config: AgentConfig) -> Iterator[Hands]:
    """Hold the right to write below `bpf_root`, and what does it; the helper ends at the end."""
    # vipbee does no linear algebra, and rights can be given up with one thread only
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    capabilities.require()
    open_files.allow_many()
    user = None if config.privileged else find_user(config.user)
    with _root(config.bpf_root), pins.exclusive(config.bpf_root, wait_s=LOCK_WAIT_S) as lock:
        if user is not None and (reason := _cannot_split(config, user)):
            user = None
        else:
            reason = ""
        if user is None:
            hands = Hands(Operations(config, lambda: _load(config), lock), OWN_RIGHTS, None)
            hands.why_privileged = reason
            yield hands
            return
        with _helper(config, lock) as helper:
            yield Hands(helper, SharedFiles(helper), user)


@contextlib.contextmanager
def _root(bpf_root: Path) -> Iterator[None]:
    """The directory for pins; who does not come as far as to pin anything leaves none behind."""
    was_there = bpf_root.exists()
    pins.prepare_root(bpf_root)
    try:
        yield
    except VipbeeError:
        if not was_there:
            with contextlib.suppress(OSError):  # something is in it by now, or rights are gone
                bpf_root.rmdir()
        raise


def _cannot_split(config: AgentConfig, user: User) -> str:
    """Why rights are kept although nobody wants that; empty if they can be given up."""
    lacking = capabilities.lacking_to_change_user() if user.uid != os.geteuid() else []
    if not lacking:
        return ""
    if config.user is not None:
        raise EnvironmentUnusable(
            f"the agent cannot become user {user.name}: {', '.join(lacking)} not effective",
            remedy="grant these capabilities, or use --privileged",
        )
    return f"the agent keeps its rights: {', '.join(lacking)} not effective"


@contextlib.contextmanager
def _helper(config: AgentConfig, lock: int) -> Iterator[Helper]:
    ours, theirs = Channel.pair()
    pid = fork()
    if pid == 0:

        def serve() -> None:
            from vipbee.privileged.helper import run_helper

            run_helper(config, theirs, lock)

        run_child(serve, ours.close)
    theirs.close()
    try:
        yield Helper(ours)
    finally:
        ours.close()  # which ends it
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _load(config: AgentConfig) -> Started:
    from vipbee.datapath.loader import prepare
    from vipbee.privileged.loading import bring_up_datapath, load_request

    with prepare(load_request(config)) as prepared:
        return bring_up_datapath(prepared)
