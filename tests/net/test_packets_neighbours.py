# SPDX-License-Identifier: Apache-2.0
"""Next hops that are missing, stale, failed or moved: the kernel resolves, we only name them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.packet_lab import Answer, ask, balancer_ip, packet_lab
from vipbee.lab import Lab

FAMILIES = pytest.mark.parametrize("family", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", ["TCP", "UDP"])
WRONG_MAC = "02:00:00:00:be:ef"


@pytest.fixture(scope="module")
def lab(lab_name: str) -> Iterator[Lab]:
    with packet_lab("routed", lab_name) as lab:
        lab.remove_endpoint("near-0")  # so that every packet goes on to node-2
        lab.services[:] = [s for s in lab.services if s["metadata"]["name"] == "cluster"]
        lab.publish()
        eventually(lambda: {try_once(lab, 4) for _ in range(8)} == {"far-0"})
        yield lab


def try_once(lab: Lab, family: int) -> str:
    try:
        return ask(lab.client, "UDP", balancer_ip("cluster", family), 7000, timeout_s=0.5).server
    except OSError as error:
        return str(error)


def neighbour(lab: Lab, family: int, command: str) -> None:
    """Change node-1's entry for its next hop, node-2, or for the client."""
    done = lab.node("node-1").run(["ip", f"-{family}", "neigh", *command.split()])
    assert done.returncode == 0, done.stderr


@FAMILIES
@PROTOCOLS
def test_the_first_packet_waits_for_a_missing_neighbour(
    lab: Lab, protocol: str, family: int
) -> None:
    """D153: also on the way back, to the client."""
    lab.node("node-1").run(["ip", f"-{family}", "neigh", "flush", "dev", "eth0"], check=True)

    # one datagram is one try: it would not be sent again
    answer = ask(lab.client, protocol, balancer_ip("cluster", family), 7000, timeout_s=3)

    assert answer == Answer("far-0", lab.node("node-1").address(family))


@FAMILIES
@pytest.mark.parametrize("state", ["stale", "failed"])
@pytest.mark.parametrize("hop", ["node-2", "client"])
def test_a_neighbour_that_moved_is_found_again(lab: Lab, hop: str, state: str, family: int) -> None:
    """D155, D156: a wrong MAC in a stale entry lasts no longer than the kernel's own probes."""
    address = lab.place(hop).address(family)
    # the kernel knows no way to FAILED but a probe: without an address it has to begin anew
    change = f"lladdr {WRONG_MAC} nud stale" if state == "stale" else "nud failed"
    neighbour(lab, family, f"replace {address} dev eth0 {change}")

    took = eventually(lambda: try_once(lab, family) == "far-0", within_s=12)

    print(f"{hop} {state} IPv{family}: served again after {took:.2f} s")
