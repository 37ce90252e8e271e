# SPDX-License-Identifier: Apache-2.0
"""Is a kube-proxy alive in this network namespace? It would write again what is removed.

Its process is seen only from the host's PID namespace, so its metrics port is asked as
well, where every kube-proxy, also one inside k3s, tells its mode.
"""

from __future__ import annotations

import http.client
import os
from pathlib import Path

_MODES = frozenset((b"iptables", b"ipvs", b"nftables", b"userspace"))
_METRICS = ("127.0.0.1", 10249)
_TIMEOUT_S = 2.0


def find_running(proc: Path = Path("/proc"), metrics: tuple[str, int] = _METRICS) -> str:
    """Who it is, "process 123" or "on 127.0.0.1:10249"; "" if there is none."""
    if number := _process(proc):
        return f"process {number}"
    return "on {}:{}".format(*metrics) if _answers(metrics) else ""


def _process(proc: Path) -> int:
    """The number of the first process of that name that shares our network; 0 if there is none."""
    ours = _network(proc / "self")
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_bytes() == b"kube-proxy\n" and _network(entry) == ours:
                return int(entry.name)
        except OSError:
            continue  # it ended while we looked, or is not ours to look at
    return 0


def _network(process: Path) -> str:
    return os.readlink(process / "ns/net")


def _answers(metrics: tuple[str, int]) -> bool:
    connection = http.client.HTTPConnection(*metrics, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/proxyMode")
        answer = connection.getresponse()
        return answer.status == http.HTTPStatus.OK and answer.read(32).strip() in _MODES
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
