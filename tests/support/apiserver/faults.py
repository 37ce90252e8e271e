# SPDX-License-Identifier: Apache-2.0
"""What can be made to go wrong with one request: the scripted part of the API server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

Verb = Literal["list", "watch"]
Ending = Literal["end", "cut", "stall"]
"""In order; with a broken connection; not at all (half-open: TCP alive, no data)."""


def status_object(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    """metav1.Status."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        **({"details": details} if details else {}),
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP error in place of the answer."""

    code: int
    reason: str = ""
    message: str = "scripted"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return json.dumps(status_object(self.code, self.reason, self.message)).encode()


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer at all, on a living connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks before the answer."""


@dataclass(frozen=True, slots=True)
class Script:
    """Status 200, exactly these pieces, each sent by itself, then the ending."""

    pieces: tuple[bytes, ...]
    then: Ending = "end"


@dataclass(frozen=True, slots=True)
class StallAfter:
    """A true watch up to so many events, then silence."""

    events: int = 0


Fault = Answer | Hang | Reset | Script | StallAfter
