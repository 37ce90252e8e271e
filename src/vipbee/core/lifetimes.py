# SPDX-License-Identifier: Apache-2.0
"""How long a connection is remembered after its last packet, by what it was doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the configuration needs the numbers only, and so does the privileged helper
    import numpy as np


class Lifetimes(NamedTuple):
    """Seconds after the last packet; members of `struct config`."""

    established_s: int = 7440
    transitory_s: int = 240
    reset_s: int = 10
    udp_s: int = 120

    @classmethod
    def of(cls, config: np.void) -> Lifetimes:
        """As the loaded programs have them (struct config)."""
        return cls(*(int(config[f"lifetime_{name}"]) for name in cls._fields))
