# SPDX-License-Identifier: Apache-2.0
"""The API server as a process: `python -m tests.support.apiserver HOST:PORT [STATE.json]`.

STATE.json has `services`, `endpoints` and `nodes`, like a state file. Afterwards objects are
written with PUT and DELETE at their usual paths. Prints its address once it listens.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.support.apiserver.paths import SECTIONS
from tests.support.apiserver.server import ApiServer


async def serve(address: str, state: Path | None) -> None:
    server = ApiServer()
    if state is not None:
        sections = json.loads(state.read_text())
        for section, plural in SECTIONS.items():
            for manifest in sections.get(section) or ():
                server.objects.put(plural, manifest)
        server.objects.compact()
    host, _, port = address.rpartition(":")
    await server.start(host, int(port))
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None))
