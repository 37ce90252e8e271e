# SPDX-License-Identifier: Apache-2.0
"""Connecting through a VIP against connecting directly, in turns, to the same backend."""

from __future__ import annotations

import statistics
import subprocess
from functools import partial

from bench.sockets import state
from bench.sockets.build import Built
from bench.sockets.cluster import CLIENT_CPU
from tests.support.hooked import Hooked


def connect_ratio(hooked: Hooked, built: Built, *, rounds: int, count: int) -> tuple[float, float]:
    """(p50 through the VIP ÷ p50 direct, p50 through the VIP in µs): medians of the rounds."""
    pairs = []
    for number in range(rounds):
        targets = [(state.DIRECT, state.PORT), (state.vip(0), 80)]
        if number % 2:
            targets.reverse()  # who comes second finds the caches of who came first
        arguments = [str(part) for target in targets for part in target]
        command = [str(built.client), "tcp", str(CLIENT_CPU), str(count), *arguments]
        output = hooked.run(partial(subprocess.check_output, command, text=True), timeout_s=120)
        p50 = [int(line.split()[0]) for line in output.splitlines()]
        if number % 2:
            p50.reverse()
        pairs.append(p50)
    return (
        statistics.median(vip / direct for direct, vip in pairs),
        statistics.median(vip for _, vip in pairs) / 1000,
    )
