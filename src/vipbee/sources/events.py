# SPDX-License-Identifier: Apache-2.0
"""What sources tell the agent. A source is a file, or one kind of a Kubernetes API server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from vipbee.errors import SourceError
from vipbee.model import ApiObject, Problem


class ObjectName(NamedTuple):
    """`namespace` means nothing for a Node."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """All that `source` says now, in place of what it said before."""

    source: str
    objects: tuple[ApiObject, ...]
    problems: tuple[Problem, ...]
    ignored: int = 0
    received_s: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """These objects of `source` are new or different, those are gone; the others stay.

    No object is in both. `problems` are all there are in `source` now.
    """

    source: str
    objects: tuple[ApiObject, ...]
    deleted: tuple[ObjectName, ...]
    problems: tuple[Problem, ...] = ()
    received_s: float = field(default_factory=time.monotonic, compare=False)
    """When it was read and decoded."""


@dataclass(frozen=True, slots=True)
class Removed:
    """`source` is gone, and its objects with it.

    Sent for the directory itself when it can be read again after it had `Failed`.
    """

    source: str


@dataclass(frozen=True, slots=True)
class Failed:
    """`source` cannot be used now: what it said last stays in force."""

    source: str
    error: SourceError


@dataclass(frozen=True, slots=True)
class Recovered:
    """`source`, which had `Failed`, can be used again; what it said stands."""

    source: str


@dataclass(frozen=True, slots=True)
class Synced:
    """Every source has been tried once, and all that is needed is loaded. Sent once.

    One may have `Failed` before: what it says is then not known, and nothing is deleted.
    """


SourceEvent = Loaded | Changed | Removed | Failed | Recovered | Synced
