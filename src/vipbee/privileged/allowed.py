# SPDX-License-Identifier: Apache-2.0
"""Which files the helper opens for the agent: the configured ones, and nobody else's.

    state file         itself, or of a directory its *.yaml, *.yml and *.json
    kubeconfig         itself, and the certificates, keys and tokens that it names

A path must be spelled as the configuration spells it. And nobody but root may be able to put
another file or a link in its place: else whoever can would read with root's rights.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection

from vipbee.config import IN_CLUSTER, AgentConfig
from vipbee.privileged.failures import RefusedError
from vipbee.sources.files import OWN_RIGHTS, FileState, is_state_file

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class AllowedFiles:
    """Implements sources.files.Files; raises RefusedError for what is not allowed.

    `named` gives what the kubeconfig names; asked only for paths that are nothing else.
    """

    def __init__(self, config: AgentConfig, named: Callable[[], Collection[str]]) -> None:
        self._state = str(config.state_file) if config.state_file else None
        kubeconfig = config.kubeconfig if config.kubeconfig != IN_CLUSTER else None
        self._kubeconfig = str(kubeconfig) if kubeconfig else None
        self._named = named

    def state(self, path: str) -> FileState:
        self._check(path)
        return FileState.of(os.stat(path))

    def names(self, directory: str) -> list[str]:
        """Of the directory of state files only."""
        if directory != self._state:
            raise RefusedError(f"{directory} is not the directory of state files")
        return OWN_RIGHTS.names(directory)

    def open(self, path: str) -> int:
        self._check(path)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if _is_roots_alone(path):
            return os.open(path, flags)
        # directly in /tmp, say: a file of root's is all right, what others made is not
        fd = os.open(path, flags | os.O_NOFOLLOW)
        if os.fstat(fd).st_uid not in _trusted() or not _is_roots_alone(os.path.dirname(path)):
            os.close(fd)
            raise RefusedError(f"{path} is where others than root can put files")
        return fd

    def _check(self, path: str) -> None:
        if path in (self._state, self._kubeconfig):
            return
        name = os.path.basename(path)
        if self._state is not None:
            if path == os.path.join(self._state, name) and is_state_file(name):
                return
        elif path in self._named():
            return
        raise RefusedError(f"{path} is no file that the agent was configured with")


def _is_roots_alone(path: str) -> bool:
    """Whether only root can change which file `path` leads to, but for links on the way."""
    directory = os.path.dirname(os.path.abspath(path))
    while True:
        status = os.stat(directory)
        if status.st_uid not in _trusted():
            return False
        if status.st_mode & _OTHERS_WRITE:
            # sticky: others cannot replace what is root's, so only the last name is open
            is_last = directory == os.path.dirname(os.path.abspath(path))
            if is_last or not status.st_mode & stat.S_ISVTX:
                return False
        parent = os.path.dirname(directory)
        if parent == directory:
            return True
        directory = parent


def _trusted() -> set[int]:
    return {0, os.geteuid()}
