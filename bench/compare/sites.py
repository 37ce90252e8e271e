# SPDX-License-Identifier: Apache-2.0
"""Everybody's site, up together and gone together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bench.compare.place import Programs, Site
from bench.compare.proxies import Proxy
from bench.compare.roster import Candidate

NAME_LIMIT = 16


@contextlib.contextmanager
def sites(
    chosen: list[Candidate],
    programs: Programs,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[list[Proxy]]:
    """Proxies that serve nothing yet; on the way out, all that they made is removed."""
    with contextlib.ExitStack() as stack:
        proxies = []
        for candidate in chosen:
            progress(f"building the cluster of {candidate.title}")
            site = Site(f"cmp{candidate.key.replace('-', '')}"[:NAME_LIMIT], programs)
            stack.callback(site.close)
            proxy = candidate.make(site)
            stack.callback(proxy.clear)
            proxies.append(proxy)
        yield proxies
