# SPDX-License-Identifier: Apache-2.0
"""One row of `vipbee check`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vipbee.errors import VipbeeError


class Result(StrEnum):
    OK = "ok"
    FALLS_BACK = "falls back"  # works, differently
    WARNING = "warning"  # works, but somebody should look
    MISSING = "missing"  # does not work


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    result: Result
    used: str  # what will be used, or what is wrong
    remedy: str = ""  # the one thing to do; never empty if missing

    @property
    def is_blocking(self) -> bool:
        return self.result is Result.MISSING


def missing(what: str, problem: str, remedy: str) -> Finding:
    """A blocking problem and the one thing to do about it."""
    return Finding(what, Result.MISSING, problem, remedy)


def reason_of(error: VipbeeError) -> str:
    """The first line says why; the verifier's log goes on for pages."""
    return str(error).splitlines()[0]


def remedy_of(error: VipbeeError) -> str:
    return str(getattr(error, "remedy", error))
