# SPDX-License-Identifier: Apache-2.0
"""What a run of the comparison found, and its JSON: docs/benchmark-results.md has the fields."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

SCHEMA = 2
PROGRAM = "program"
UNSTABLE = 0.25
"""A spread of the quartiles, as a share of the median, from which a figure is marked."""


class Measurement(msgspec.Struct, frozen=True, omit_defaults=True):
    """`value` is the median over `rounds`, `low` and `high` its quartiles, in `unit`.

    `ratio` is the median of what each round had ÷ the direct connection in that round.
    """

    figure: str
    variant: str
    services: int
    family: int
    place: str  # which Service or backend; "" if there is nothing to tell apart
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    ratio: float | None = None
    failed: int = 0  # requests, over all rounds

    @property
    def is_unstable(self) -> bool:
        return self.value > 0 and (self.high - self.low) / self.value > UNSTABLE

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        return self.figure, self.variant, self.services, self.family, self.place


class Missing(msgspec.Struct, frozen=True):
    """A figure that was not measured, and why.

    `figure` is also what several begin with ("node_port"), or PROGRAM: then nothing was measured.
    """

    figure: str
    variant: str
    services: int
    family: int
    why: str


class Skipped(msgspec.Struct, frozen=True):
    """Somebody who was not compared, and how he would be."""

    title: str
    why: str


class Variant(msgspec.Struct, frozen=True):
    key: str
    title: str


class Machine(msgspec.Struct, frozen=True):
    kernel: str
    cpu: str
    cpus: int
    memory_gib: float
    system: str


class Result(msgspec.Struct):
    """One run. `schema` changes with the meaning of any field or figure."""

    date: str
    commit: str
    depth: str  # "full", "quick" or "smoke"
    machine: Machine
    variants: list[Variant]
    sizes: list[int]
    measurements: list[Measurement] = msgspec.field(default_factory=list)
    missing: list[Missing] = msgspec.field(default_factory=list)
    skipped: list[Skipped] = msgspec.field(default_factory=list)
    took_s: float = 0.0
    schema: int = SCHEMA

    def find(
        self, figure: str, variant: str, services: int, *, family: int = 4, place: str = ""
    ) -> Measurement | None:
        wanted = (figure, variant, services, family, place)
        return next((m for m in self.measurements if m.key == wanted), None)


def measurement(
    figure: str,
    variant: str,
    services: int,
    family: int,
    place: str,
    unit: str,
    values: Sequence[float],
    *,
    direct: Sequence[float] = (),
    failed: int = 0,
) -> Measurement:
    """From one value a round; `direct` has the direct connection's, in the same rounds."""
    low, high = _quartiles(values)
    pairs = zip(values, direct, strict=True) if direct else ()
    ratios = [value / other for value, other in pairs if other]
    return Measurement(
        figure,
        variant,
        services,
        family,
        place,
        unit,
        statistics.median(values),
        low,
        high,
        len(values),
        statistics.median(ratios) if ratios else None,
        failed,
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def new_result(depth: str, variants: list[Variant], sizes: list[int]) -> Result:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return Result(time.strftime("%Y-%m-%dT%H:%M:%S"), commit, depth, _machine(), variants, sizes)


def save(result: Result, directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{result.date.replace(':', '')}-{result.machine.kernel}.json"
    path = directory / name
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(path: Path) -> Result:
    """ValueError if it is not a result of this schema."""
    result = msgspec.json.decode(path.read_bytes(), type=Result)
    if result.schema != SCHEMA:
        raise ValueError(f"{path} has schema {result.schema}, this program reads {SCHEMA}")
    return result


def _machine() -> Machine:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return Machine(platform.release(), cpu, os.cpu_count() or 1, round(memory, 1), system)
