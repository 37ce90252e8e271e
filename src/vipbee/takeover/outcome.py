# SPDX-License-Identifier: Apache-2.0
"""What one look for kube-proxy came to: a message, as another process may have looked."""

from __future__ import annotations

from msgspec import Struct


class Step(Struct, forbid_unknown_fields=True):
    """At most one of these is said."""

    running: str = ""  # who a live kube-proxy is
    found: str = ""  # rules, which have been removed
    chains: int = 0  # how many of them were chains
    kept: dict[str, str] = {}  # what stays since somebody else uses it → by what
    error: str = ""  # why rules that were found are still there
