# SPDX-License-Identifier: Apache-2.0
"""Keeps NodePorts out of the ports that the node's own connections start from."""

from __future__ import annotations

from collections.abc import Callable

from vipbee.core.port_ranges import PortRange
from vipbee.datapath.reserved_ports import SYSCTL, missing_ports
from vipbee.logs import get_log
from vipbee.model import Problem

log = get_log()


class NodePortReservation:
    """`reserve` does it, with the right to.

    `wanted` is None if the sysctl is to be left alone; then what was added before goes.
    """

    def __init__(self, reserve: Callable[[], bool], wanted: PortRange | None) -> None:
        self._reserve = reserve
        self._wanted = wanted
        self._problem: Problem | None = None

    def bring(self) -> None:
        """Reserve what is not; an administrator's sysctl run may have taken it away."""
        try:
            written = self._reserve()
        except (OSError, ValueError) as error:
            self._problem = self._explain(error)
            return
        self._problem = None
        if written:
            log.info("NodePorts reserved", ports=str(self._wanted or "none"), sysctl=SYSCTL)

    def problems(self) -> list[Problem]:
        return [self._problem] if self._problem else []

    def _explain(self, error: OSError | ValueError) -> Problem | None:
        if self._wanted is None:
            return None
        try:
            if not missing_ports(self._wanted):
                return None  # somebody else has done it
        except (OSError, ValueError):
            pass
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = (
            f"cannot be written ({reason}): connections of this node may start from NodePorts and"
            f" lose their replies; set it to {self._wanted} on the host, or give"
            " --no-reserve-node-ports"
        )
        return Problem(SYSCTL, message, is_error=False)
