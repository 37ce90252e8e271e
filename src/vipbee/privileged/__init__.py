# SPDX-License-Identifier: Apache-2.0
"""The agent without rights, and the small process that keeps them for it.

    vipbee agent ── fork ──► helper: root, small, knows neither the API nor NumPy
        │                       │ loads, attaches, detaches, releases sockets, opens the
        │ gives up all rights   │ configured files; nothing else, whatever it is asked
        ▼                       ▼
    parses what the API    requests.py over an inherited socket (channel.py),
    server sends           answered by operations.py; map fds come back with it

`split.py` puts it together. What this protects against, and what not, is in docs/security.md.
Modules the helper imports must not import NumPy, aiohttp or typer: a test looks.
"""
