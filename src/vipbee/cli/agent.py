# SPDX-License-Identifier: Apache-2.0
"""`vipbee agent`: the command line of the node daemon."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vipbee.cli import agent_options
from vipbee.collection import collect_rarely

if TYPE_CHECKING:
    from vipbee.config import AgentConfig
    from vipbee.privileged.split import Hands


def agent(arguments: Sequence[str]) -> int:
    """Run the daemon; return the exit code."""
    collect_rarely()  # all that is imported from here on stays
    try:
        file, flags = agent_options.parse(arguments)
    except SystemExit:  # --help was asked for
        return 0
    from vipbee.config import load_config
    from vipbee.privileged.split import split

    settings, warnings = load_config(file, flags)
    with split(settings) as hands:  # before all that is heavy: the helper stays small
        run_agent(settings, warnings, hands)
    return 0


def run_agent(settings: AgentConfig, warnings: Sequence[str], hands: Hands) -> None:
    """Import what the agent is made of, give up rights, run."""
    import asyncio

    _import_aiohttp()
    from vipbee.agent import run
    from vipbee.logs import configure_logs, get_log
    from vipbee.preload import preload
    from vipbee.takeover.watch import refuse_beside_kube_proxy

    configure_logs(settings.log_format, settings.log_level)
    if not settings.takeover:
        refuse_beside_kube_proxy()
    preload()
    hands.give_up_rights()
    log = get_log()
    for warning in warnings:
        log.warning("configuration", reason=warning)
    if hands.why_privileged:
        log.warning("rights", reason=hands.why_privileged)
    asyncio.run(run(settings, hands))


def _import_aiohttp() -> None:
    """Spare it the certificates of all the world's authorities.

    It reads them as it is imported, for connections that name no TLS context; all of ours do
    (sources/kubernetes/tls.py). 25 ms of processor time.
    """
    places = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(dict.fromkeys(places, os.devnull))
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
