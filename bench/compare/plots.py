# SPDX-License-Identifier: Apache-2.0
"""Pictures of a result: SVG that is readable on light and dark pages.

Text and axes are drawn in one colour that a style sheet in the file replaces by what the
reader's colour scheme asks for; lines have colours that contrast with both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.compare.result import Measurement, Result

_INK = "#123456"  # stands for the reader's text colour
_STYLE = """<style>
:root { color: #24292f }
@media (prefers-color-scheme: dark) { :root { color: #d0d7de } }
</style>"""
_LOOKS = {  # key → colour, marker
    "direct": ("#8c959f", "."),
    "vipbee": ("#e36209", "o"),
    "vipbee-packets": ("#bf8700", "s"),
    "nftables": ("#0969da", "^"),
    "iptables-nft": ("#8250df", "v"),
    "iptables-legacy": ("#cf222e", "D"),
    "cilium": ("#1a7f37", "P"),
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure over the number of Services, a line for each proxy."""

    name: str
    title: str
    figure: str
    place: str
    label: str  # of the vertical axis, with its unit
    value: Callable[[Measurement], float | None]
    has_zero: bool = False


PLOTS = (
    Plot("latency", "Connect and one byte each way, through the last Service", "connect_p50",
         "last", "median (µs)", lambda found: found.value),
    Plot("rules", "Netfilter rules on the node", "rules",
         "", "rules", lambda found: found.value, has_zero=True),
    Plot("programming", "From nothing until the last Service answers", "program",
         "", "seconds", lambda found: found.value),
    Plot("change", "One endpoint changed, until the first request reaches it", "change",
         "", "median (ms)", lambda found: found.value),
)  # fmt: skip


def draw(result: Result, plot: Plot, directory: Path) -> Path:
    """Write `benchmarks-<name>.svg`; sizes on a logarithmic axis."""
    settings = {
        "svg.hashsalt": "vipbee",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    }
    with mpl.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(7.2, 4.4), layout="constrained")
        for variant in result.variants:
            _line(axes, result, plot, variant.key, variant.title)
        _dress(axes, plot)
        path = directory / f"benchmarks-{plot.name}.svg"
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
    path.write_text(_recoloured(path.read_text()))
    return path


def _line(axes: Axes, result: Result, plot: Plot, key: str, title: str) -> None:
    points = [
        (size, value)
        for size in result.sizes
        if (found := result.find(plot.figure, key, size, place=plot.place)) is not None
        and (value := plot.value(found)) is not None
    ]
    if not points:
        return
    colour, marker = _LOOKS.get(key, ("#57606a", "x"))
    style = "--" if key == "direct" else "-"
    sizes, values = zip(*points, strict=True)
    axes.plot(sizes, values, style, color=colour, marker=marker, markersize=5, label=title)


def _dress(axes: Axes, plot: Plot) -> None:
    axes.set_title(plot.title, fontsize=11)
    axes.set_xlabel("Services")
    axes.set_ylabel(plot.label)
    axes.set_xscale("log")
    if plot.has_zero:
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=-0.2)
    else:
        axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.yaxis.set_minor_formatter(FuncFormatter(_few_minor_labels(*axes.get_ylim())))
    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.grid(visible=True, which="major", color=_INK, alpha=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _few_minor_labels(low: float, high: float) -> Callable[[float, float], str]:
    """Between powers of ten, only where there are hardly any powers of ten."""
    is_narrow = high / low < 100
    return lambda value, _: f"{value:,.10g}" if is_narrow and f"{value:e}"[0] in "25" else ""


def _recoloured(svg: str) -> str:
    head, tag, rest = svg.partition("<defs>")
    return (head + _STYLE + tag + rest).replace(_INK, "currentColor")
