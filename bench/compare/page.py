# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md, from one result: tables, pictures, verdicts, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.compare import plots
from bench.compare.depth import DEPTHS
from bench.compare.result import PROGRAM, UNSTABLE, Result
from bench.compare.table import number, show
from bench.compare.targets import verdicts

_LAST = "last"
_TABLES = (
    ("Connect and one byte each way, TCP, IPv4, last Service: median", "connect_p50", "last", 4),
    ("The same, 99th percentile", "connect_p99", "last", 4),
    ("The same, connections a second", "connect_rate", "last", 4),
    ("The same, first Service: median", "connect_p50", "first", 4),
    ("The same, Service in the middle: median", "connect_p50", "middle", 4),
    ("The same, last Service, IPv6: median", "connect_p50", "last", 6),
    (
        "Open loop, 1,000 connections a second, last Service: 99th percentile",
        "paced_p99",
        "last",
        4,
    ),
    (
        "DNS-sized query over UDP (40 bytes, 120 back), last Service: median",
        "resolve_p50",
        "last",
        4,
    ),
    ("The same, 99th percentile", "resolve_p99", "last", 4),
    ("The same, queries a second", "resolve_rate", "last", 4),
    ("Request and response on one long connection: median", "converse_p50", "last", 4),
    ("Bulk transfer over one connection", "bulk", "last", 4),
    ("From outside by NodePort, backend on the node: median", "node_port_p50", "local", 4),
    ("The same, requests a second", "node_port_rate", "local", 4),
    ("From outside by NodePort, backend elsewhere: median", "node_port_p50", "remote", 4),
    ("The same, requests a second", "node_port_rate", "remote", 4),
    ("Without any Service, pod to pod, beside each proxy: median", "beside_p50", "pod to pod", 4),
    ("Without any Service, outside to pod: median", "beside_p50", "outside to pod", 4),
    ("Netfilter rules on the node", "rules", "", 4),
    ("Entries of BPF maps, or elements of nftables' sets and maps", "map_entries", "", 4),
    ("From nothing until the last Service answers", "program", "", 4),
    ("of which programming, by its own account", "program_sync", "", 4),
    ("CPU time for that", "program_cpu", "", 4),
    ("Peak memory of the control plane (all its processes)", "control_plane_peak", "", 4),
    ("Kernel memory of the tables", "kernel_memory", "", 4),
    ("One endpoint changed, until the first request reaches it: median", "change", "", 4),
)


def write(result: Result, directory: Path) -> Path:
    """Write benchmarks.md and its pictures into `directory`."""
    directory.mkdir(exist_ok=True)
    for plot in plots.PLOTS:
        plots.draw(result, plot, directory)
    path = directory / "benchmarks.md"
    path.write_text("\n".join(_lines(result)) + "\n")
    return path


def _lines(result: Result) -> Iterator[str]:
    machine = result.machine
    yield "# Side by side with kube-proxy"
    yield ""
    yield (
        f"Measured {result.date[:10]} at `{result.commit}`, Linux {machine.kernel}, {machine.cpus} "
        f"CPUs ({machine.cpu}), {machine.memory_gib:.0f} GiB, {machine.system}; "
        f"{_DEPTHS[result.depth]}, {result.took_s / 60:.0f} minutes. Written by the "
        "benchmark itself: do not edit. Again, on your machine:"
    )
    yield ""
    yield "```"
    yield "make bench                                   # everything, 30 minutes"
    yield "make bench-quick                             # to 5,000 Services, 5 minutes"
    yield "make bench KUBE_PROXY=/path/to/kube-proxy    # the real one, not just its rules"
    yield "make bench CILIUM_AGENT=/path/to/cilium-agent    # Cilium too"
    yield "```"
    yield ""
    for plot in plots.PLOTS:
        yield f"![{plot.title}](benchmarks-{plot.name}.svg)"
        yield ""
    yield "## Who was compared"
    yield ""
    for variant in result.variants:
        yield f"* **{variant.title}**: {_describe(variant.key, variant.title)}"
    yield ""
    yield "## Targets"
    yield ""
    yield "| figure | measured | target | |"
    yield "| --- | --- | --- | --- |"
    for verdict in verdicts(result):
        yield f"| {verdict.figure} | {verdict.measured} | {verdict.target} | {verdict.outcome} |"
    yield ""
    yield "What was tried where one is missed: [benchmark-results.md](benchmark-results.md)."
    yield ""
    yield "## Tables"
    yield ""
    yield (
        "In brackets: ÷ the direct connection of the same round, median over the rounds. "
        f"`*`: the quartiles are more than {UNSTABLE:.0%} of the median apart. `!`: requests "
        "failed. Empty: not measured at that size, see [missing](#missing). All of it as JSON, "
        "with what the fields and figures mean: [benchmark-results.md](benchmark-results.md)."
    )
    for title, figure, place, family in _TABLES:
        yield from _table(result, title, figure, place, family)
    yield from _programs(result)
    yield from _missing(result)
    yield _WHAT_IT_DOES_NOT_SHOW


def _describe(key: str, title: str) -> str:
    if key.startswith(("iptables", "nftables")):
        return (
            "the real binary, fed by the API server of the tests."
            if title.startswith("kube-proxy,")
            else "rule sets written as kube-proxy 1.36 writes them, loaded with its tool; no "
            "kube-proxy ran, so programming and changes are lower bounds."
        )
    return _VARIANTS[key]


_DEPTHS = {"full": "a full run", "quick": "a quick run", "smoke": "a run that only proves it works"}
_VARIANTS = {
    "direct": "the client dials the pod; from outside by plain routing through the same node.",
    "vipbee": "`vipbee agent` with the socket layer alone, fed by the API server of the tests.",
    "vipbee-packets": "the same with the packet layer alone (`--no-socket-lb`).",
    "cilium": (
        "the real `cilium-agent` instead of kube-proxy, without a cluster: socket layer, and "
        "NodePort programs on the node's devices and on those of its pods, where a cluster that "
        "Cilium connects has others of its own. It serves NodePorts some seconds after the first "
        "answer, which is not counted. Its Services come from a file, which it reads whole for "
        "every change: in a cluster it watches the API server."
    ),
}
_WHAT_IT_DOES_NOT_SHOW = """
## What these figures do not show

Client, server and proxy share one machine: there is no network between them, so what a proxy
costs is a larger part of a request than in a cluster. Client and server are pinned to a CPU each
and idle in between, so a median is a latency, not a capacity; tails are those of this machine
as much as of a proxy. One client and one connection at a time: contention between CPUs
is not measured. All Services but five have five endpoints that nobody dials. Long-lived
connections, connection tables under pressure, and floods are measured by `make bench-packets`.
Kernel memory is a difference of /proc/meminfo, good to about a MiB."""


def _table(result: Result, title: str, figure: str, place: str, family: int) -> Iterator[str]:
    sizes = [
        size
        for size in result.sizes
        if any(
            result.find(figure, variant.key, size, family=family, place=place)
            for variant in result.variants
        )
    ]
    if not sizes:
        return
    yield ""
    yield f"**{title}**"
    yield ""
    yield "| | " + " | ".join(f"{size:,}" for size in sizes) + " |"
    yield "| --- |" + " ---: |" * len(sizes)
    for variant in result.variants:
        cells = [
            show(result.find(figure, variant.key, size, family=family, place=place))
            for size in sizes
        ]
        if any(cells):
            yield f"| {variant.title} | " + " | ".join(cells) + " |"


def _programs(result: Result) -> Iterator[str]:
    found = [m for m in result.measurements if m.figure == "program_run" and m.family == 4]
    if not found:
        return
    yield ""
    yield "**Nanoseconds a run of each BPF program**, the kernel's own clock included"
    yield ""
    sizes = [size for size in result.sizes if any(m.services == size for m in found)]
    yield "| layer | program | " + " | ".join(f"{size:,}" for size in sizes) + " |"
    yield "| --- | --- |" + " ---: |" * len(sizes)
    for variant, name in sorted({(m.variant, m.place) for m in found}):
        cells = [
            next(
                (
                    number(m.value)
                    for m in found
                    if m.key == ("program_run", variant, size, 4, name)
                ),
                "",
            )
            for size in sizes
        ]
        yield f"| {variant} | `{name}` | " + " | ".join(cells) + " |"


def _missing(result: Result) -> Iterator[str]:
    yield ""
    yield "## Missing"
    yield ""
    titles = {variant.key: variant.title for variant in result.variants}
    seen = dict.fromkeys(
        f"* {titles[miss.variant]}, {miss.services:,} Services, IPv{miss.family}: "
        f"{_what(miss.figure)}: {miss.why}"
        for miss in result.missing
    )
    yield from seen
    for skip in result.skipped:
        yield f"* {skip.title}: not compared. {skip.why}"
    left_out = [f"{size:,}" for size in DEPTHS["full"].sizes if size not in result.sizes]
    if left_out:
        yield f"* Everybody: {', '.join(left_out)} Services: only `make bench` has these sizes."
    if not (seen or result.skipped or left_out):
        yield "Nothing."


def _what(figure: str) -> str:
    return (
        "everything, for it was not programmed" if figure == PROGRAM else figure.replace("_", " ")
    )
