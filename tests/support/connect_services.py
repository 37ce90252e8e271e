# SPDX-License-Identifier: Apache-2.0
"""The Services that tests of connect(2) dial."""

from __future__ import annotations

from tests.support.hooked import Hooked
from tests.support.servers import TCP, UDP
from tests.support.stacks import Stack, cluster_ip, service_port


def program(hooked: Hooked, stack: Stack, count: int = 3) -> None:
    """VIP 10: web, TCP 80; VIP 11: another web; VIP 53: dns, UDP 53."""
    backends = stack.backends[:count]
    hooked.program_only(
        service_port("web", cluster_ip(stack.vip(10), 80, TCP), backends, family=stack.family),
        service_port(
            "other", cluster_ip(stack.vip(11), 80, TCP), stack.backends[5:7], family=stack.family
        ),
        service_port("dns", cluster_ip(stack.vip(53), 53, UDP), backends, family=stack.family),
    )
