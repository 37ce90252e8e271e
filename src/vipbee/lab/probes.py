# SPDX-License-Identifier: Apache-2.0
"""Run the lab's own clients in a place and read what they found: a request stream
while something changes, and latencies side by side."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from vipbee.lab import latency, stream
from vipbee.lab.errors import LabError
from vipbee.lab.place import POLL_S, Place


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a stream saw in one interval; `answers` by the name of the server."""

    answers: Counter[str]
    held_exchanges: int
    failures: tuple[str, ...]

    @property
    def requests(self) -> int:
        return self.answers.total() + self.held_exchanges + len(self.failures)

    def __add__(self, other: StreamReport) -> StreamReport:
        return StreamReport(
            self.answers + other.answers,
            self.held_exchanges + other.held_exchanges,
            self.failures + other.failures,
        )


NOTHING = StreamReport(Counter(), 0, ())


class Stream:
    """Requests that go on from a place until the `with` block ends; see lab/stream.py."""

    def __init__(self, place: Place, address: tuple[str, int], *, held: int = 0) -> None:
        self.total = NOTHING
        argv = [sys.executable, "-IS", stream.__file__, address[0], str(address[1]), str(held)]
        self._process = place.popen(argv, stdin=subprocess.PIPE)

    def __enter__(self) -> Stream:
        self.report()  # waits until it runs
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def report(self) -> StreamReport:
        """What happened since the last call; also added to `total`. Waits for one request."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("report\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise LabError(f"the request stream ended with code {self._process.wait()}")
        found = json.loads(line)
        report = StreamReport(
            Counter(found["answers"]), found["held_exchanges"], tuple(found["failures"])
        )
        self.total += report
        return report

    def run_for(self, requests: int) -> StreamReport:
        """Let at least `requests` more happen; what they saw."""
        seen = NOTHING
        while seen.requests < requests:
            time.sleep(POLL_S)  # asking all the time would slow the stream down
            seen += self.report()
        return seen


def compare_latency(
    place: Place, addresses: Sequence[tuple[str, int]], *, rounds: int, cpu: int
) -> list[list[int]]:
    """Sorted latencies (ns) of connect + 1 byte for each address, measured interleaved."""
    flat = [text for address, port in addresses for text in (address, str(port))]
    argv = [sys.executable, "-IS", latency.__file__, str(cpu), str(rounds), *flat]
    done = place.run(argv, timeout_s=120)
    if done.returncode:
        raise LabError(f"latency cannot be measured: {done.stderr.strip()}")
    results: list[list[int]] = json.loads(done.stdout)
    return results


def quantile(ordered: Sequence[int], share: float) -> int:
    """Nearest-rank quantile of sorted values; `share` from 0 to 1."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
