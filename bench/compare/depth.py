# SPDX-License-Identifier: Apache-2.0
"""How much is measured: everything, five minutes' worth, or just that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Depth:
    """`limit_s`: how long a proxy may take to program a size."""

    name: str
    sizes: tuple[int, ...]
    rounds: int
    count: int  # requests a proxy, task and round
    changes: int
    limit_s: float
    ipv6_sizes: tuple[int, ...]
    long_sizes: tuple[int, ...]  # where long connections and NodePorts are measured too
    change_sizes: tuple[int, ...]
    beside_size: int  # where traffic without Services is measured


DEPTHS = {
    "full": Depth(
        name="full",
        sizes=(1, 100, 1_000, 5_000, 10_000, 100_000),
        rounds=9,
        count=600,
        changes=10,
        limit_s=90.0,
        ipv6_sizes=(1, 10_000),
        long_sizes=(1, 10_000),
        change_sizes=(1_000, 10_000, 100_000),
        beside_size=10_000,
    ),
    "quick": Depth(
        name="quick",
        sizes=(1, 1_000, 5_000),
        rounds=5,
        count=400,
        changes=4,
        limit_s=30.0,
        ipv6_sizes=(1,),
        long_sizes=(1, 5_000),
        change_sizes=(1_000, 5_000),
        beside_size=5_000,
    ),
    "smoke": Depth(
        name="smoke",
        sizes=(30,),
        rounds=2,
        count=40,
        changes=2,
        limit_s=30.0,
        ipv6_sizes=(30,),
        long_sizes=(30,),
        change_sizes=(30,),
        beside_size=30,
    ),
}
