# SPDX-License-Identifier: Apache-2.0
"""The packet layer on Debian's kernels: hosts and pods that no socket hook sees.

The guest is the node; guest_places.py draws what is around it.
"""

from __future__ import annotations

import pytest

from tests.kernels.boots import LEAVES_OUTER_HEADERS, Report
from tests.kernels.guest_places import BESIDE, BEYOND, FAMILIES, OUTSIDE, PODS

EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EACH_PROTOCOL = pytest.mark.parametrize("protocol", ["TCP", "UDP"])
FROM_OUTSIDE = pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer", "externalIP"])
FROM_PODS = pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer"])


@pytest.fixture(scope="module")
def packets(report: Report) -> Report:
    found: Report = report["packets"]
    return found


@EACH_FAMILY
@EACH_PROTOCOL
@FROM_OUTSIDE
def test_a_backend_on_the_node_sees_the_client(
    packets: Report, kind: str, protocol: str, family: int
) -> None:
    """R48, R76, R86, R89."""
    answer = packets[f"outside {kind} near {protocol} {family}"]

    assert answer == ["near", OUTSIDE.host(2)[family]]


@EACH_FAMILY
@EACH_PROTOCOL
@FROM_OUTSIDE
def test_a_backend_elsewhere_sees_the_address_of_the_device_it_is_reached_by(
    packets: Report, kernel: str, kind: str, protocol: str, family: int
) -> None:
    """R48, D114; `beyond` in a tunnel without Ethernet header: D160."""
    beside = packets[f"outside {kind} far {protocol} {family}"]

    assert beside == ["far", BESIDE.host(1)[family]]
    if kernel not in LEAVES_OUTER_HEADERS:
        beyond = packets[f"outside {kind} beyond {protocol} {family}"]
        assert beyond == ["far", BEYOND.host(1)[family]]


@EACH_FAMILY
@EACH_PROTOCOL
@FROM_OUTSIDE
def test_a_service_without_endpoints_refuses(
    packets: Report, kind: str, protocol: str, family: int
) -> None:
    """R35: a RST or port unreachable."""
    assert packets[f"outside {kind} nobody {protocol} {family}"] == "ECONNREFUSED"
    assert packets[f"pod ClusterIP nobody {protocol} {family}"] == "ECONNREFUSED"


@EACH_FAMILY
@FROM_OUTSIDE
@pytest.mark.parametrize("service", ["shut-near", "shut-far"])
def test_the_error_a_backend_answers_with_reaches_the_client(
    packets: Report, kind: str, service: str, family: int
) -> None:
    """D56: port unreachable, about the client's own datagram; a RST for TCP."""
    assert packets[f"outside {kind} {service} UDP {family}"] == "ECONNREFUSED"
    assert packets[f"outside {kind} {service} TCP {family}"] == "ECONNREFUSED"


@EACH_FAMILY
@EACH_PROTOCOL
@FROM_PODS
@pytest.mark.parametrize("service", ["far", "beyond"])
def test_a_pod_that_no_hook_sees_reaches_every_frontend_with_its_own_address(
    packets: Report, kind: str, service: str, protocol: str, family: int
) -> None:
    """R55, D135, D138."""
    answer = packets[f"pod {kind} {service} {protocol} {family}"]

    assert answer == ["far", PODS.host(2)[family]]


@EACH_FAMILY
@EACH_PROTOCOL
@FROM_PODS
def test_a_pod_reaches_itself_and_sees_the_node(
    packets: Report, kind: str, protocol: str, family: int
) -> None:
    """R59, D137: hairpin."""
    answer = packets[f"pod {kind} near {protocol} {family}"]

    assert answer == ["near", PODS.host(1)[family]]


@EACH_FAMILY
def test_datagrams_in_fragments_arrive_and_come_back(packets: Report, family: int) -> None:
    """D21, D22, D29: three parts each way."""
    assert packets[f"large near {family}"] == ["near", OUTSIDE.host(2)[family]]
    assert packets[f"large far {family}"] == ["far", BESIDE.host(1)[family]]


@EACH_FAMILY
@pytest.mark.parametrize("path", ["near", "far", "beyond", "from pod"])
def test_large_segments_arrive_and_come_back_unchanged(
    packets: Report, kernel: str, path: str, family: int
) -> None:
    """D36, D42: with checksums and segmentation left to the devices, which leave them too."""
    if path == "beyond" and kernel in LEAVES_OUTER_HEADERS:
        pytest.skip("replies out of a tunnel are not restored below 5.14")
    assert packets[f"stream {path} {family}"] is True


@EACH_FAMILY
def test_the_client_learns_of_a_smaller_mtu_behind_the_node(packets: Report, family: int) -> None:
    """D43, D52: it hears the MTU of the next hop, also where the kernel does not tell us."""
    assert packets[f"small MTU {family}"] is True
    assert packets["too big"] > 0


@EACH_FAMILY
@pytest.mark.parametrize("service", ["near", "far"])
def test_connections_outlive_the_agent(packets: Report, service: str, family: int) -> None:
    """The same backend sees the same client while the agent is dead, and after its restart."""
    alive, dead, restarted = packets["sessions"][f"{service} {family}"]

    assert alive[0] == service
    assert dead == alive
    assert restarted == alive


def test_new_connections_need_no_agent(packets: Report) -> None:
    served = ["far", BESIDE.host(1)[4]]

    assert packets["asked without agent"] == served
    assert packets["asked after restart"] == served
