# SPDX-License-Identifier: Apache-2.0
"""What a result says of the targets: met, missed and by how much, or not measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.compare.result import Result
from bench.compare.table import number


@dataclass(frozen=True, slots=True)
class Verdict:
    figure: str
    measured: str
    target: str
    outcome: str


def verdicts(result: Result) -> list[Verdict]:
    return list(_verdicts(result))


def _verdicts(result: Result) -> Iterator[Verdict]:
    sizes = [s for s in result.sizes if result.find("connect_p50", "vipbee", s, place="last")]
    ratios = {
        size: found.ratio
        for size in sizes
        if (found := result.find("connect_p50", "vipbee", size, place="last"))
    }
    known = {size: ratio for size, ratio in ratios.items() if ratio is not None}
    if known:
        size, worst = max(known.items(), key=lambda item: item[1])
        yield _at_most(f"VIP ÷ direct, connect p50, worst size ({size:,})", worst, 1.05)
        first, last = known[min(known)], known[max(known)]
        yield _at_most(f"growth from {min(known):,} to {max(known):,} Services", last / first, 1.05)
    size = _nearest(result, 5_000)
    yield _quotient(
        result, "program", size, "", 0.2, f"programming {size:,} × 5 from process start"
    )
    yield _quotient(
        result, "program_sync", size, "", 0.05, f"programming {size:,} × 5 from the list's arrival"
    )
    size = _nearest(result, 10_000)
    yield _quotient(
        result, "change", size, "", 0.1, f"one endpoint change until effective, {size:,} Services"
    )
    size = _nearest(result, 5_000)
    yield _quotient(
        result,
        "control_plane_peak",
        size,
        "",
        1.0,
        f"peak memory of the control plane, {size:,} × 5",
    )
    for variant, place, limit in (
        ("vipbee", "pod to pod", 1.02),
        ("vipbee-packets", "outside to pod", 1.03),
    ):
        found = [
            m
            for m in result.measurements
            if m.figure == "beside_p50" and m.variant == variant and m.place == place
        ]
        if found and found[0].ratio is not None:
            yield _at_most(
                f"traffic without any Service, {place}, beside {variant} ÷ no proxy",
                found[0].ratio,
                limit,
            )
    for place in ("local", "remote"):
        yield _requests(result, place)


def _at_most(figure: str, value: float, limit: float) -> Verdict:
    outcome = "met" if value <= limit else f"missed by {100 * (value / limit - 1):.0f} %"
    return Verdict(figure, f"{value:.3f}", f"≤ {limit:g}", outcome)


def _quotient(
    result: Result, figure: str, size: int, place: str, limit: float, what: str
) -> Verdict:
    """vipbee ÷ kube-proxy nftables; a rule set without kube-proxy decides nothing if missed."""
    name = f"vipbee ÷ {_title(result, 'nftables')}, {what}"
    ours = result.find(figure, "vipbee", size, place=place)
    theirs = result.find(figure, "nftables", size, place=place)
    if ours is None or theirs is None or not theirs.value:
        return Verdict(name, "", f"≤ {limit:g}", "not measured")
    verdict = _at_most(name, ours.value / theirs.value, limit)
    measured = f"{verdict.measured} ({number(ours.value)} ÷ {number(theirs.value)} {ours.unit})"
    return Verdict(name, measured, verdict.target, verdict.outcome)


def _requests(result: Result, place: str) -> Verdict:
    name = f"NodePort from outside, backend {place}, requests a second, vipbee ÷ nftables"
    ratios = []
    for size in result.sizes:
        ours = result.find("node_port_rate", "vipbee-packets", size, place=place)
        theirs = result.find("node_port_rate", "nftables", size, place=place)
        if ours and theirs and theirs.value:
            ratios.append(ours.value / theirs.value)
    if not ratios:
        return Verdict(name, "", "≥ 1.2", "not measured")
    worst = min(ratios)
    outcome = "met" if worst >= 1.2 else f"missed by {100 * (1.2 / worst - 1):.0f} %"
    return Verdict(name, f"{worst:.3f}", "≥ 1.2", outcome)


def _nearest(result: Result, size: int) -> int:
    return min(result.sizes, key=lambda other: abs(other - size))


def _title(result: Result, key: str) -> str:
    return next((v.title for v in result.variants if v.key == key), key)
