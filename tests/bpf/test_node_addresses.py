# SPDX-License-Identifier: Apache-2.0
"""Which addresses a node has, in which order: R90, and the kernel's own flags."""

from __future__ import annotations

import subprocess

from tests.support.hooked import Hooked
from vipbee.address import format_address
from vipbee.datapath.netns import local_addresses

DEVICES = """\
link add one type veth peer name two
link set one up
link set two up
addr add 10.8.8.8/24 dev one
addr add 169.254.7.7/24 dev one scope link
addr add fd00:8::1/64 dev one nodad
addr add fd00:8::2/64 dev one nodad preferred_lft 0
addr add 10.9.9.9/24 dev two
route replace default via 10.9.9.1 dev two
"""


GIVEN = ("10.9.9.9", "10.8.8.8", "fd00:8::1", "fd00:8::2")


def test_address_towards_far_away_comes_first_and_deprecated_ones_last(as_root: None) -> None:
    """R90: primary is what leads out; a link-local address is nobody's NodePort."""
    with Hooked.up(loaded=False) as hooked:
        subprocess.run(
            ["ip", "-n", hooked.name, "-batch", "-"], input=DEVICES, text=True, check=True
        )
        found = [format_address(address) for address in hooked.run(local_addresses)]

    assert [address for address in found if address in GIVEN] == list(GIVEN)
    assert found[0] == "10.9.9.9"
    assert "169.254.7.7" not in found
