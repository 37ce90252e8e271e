# SPDX-License-Identifier: Apache-2.0
"""The socket layer on Debian's kernels: the floor, and each stable since."""

from __future__ import annotations

import pytest

from tests.kernels.boots import Report
from tests.kernels.guest_sockets import EMPTY_VIP, TCP_PORT, UDP_PORT, VIPS

HAS_SET_RETVAL = {"5.10": False, "6.1": True, "6.12": True}  # since 5.18


@pytest.fixture(scope="module")
def sockets(report: Report) -> Report:
    found: Report = report["sockets"]
    return found


def test_check_finds_the_kernel_usable(report: Report) -> None:
    assert report["check"]["exit"] == 0, report["check"]["output"]


@pytest.mark.parametrize("version", VIPS)
def test_tcp_reaches_the_backend_and_sees_the_vip(sockets: Report, version: int) -> None:
    """R121"""
    assert sockets[f"tcp{version}"] == ["hello", VIPS[version], TCP_PORT]


@pytest.mark.parametrize("version", VIPS)
def test_datagrams_come_back_from_the_vip(sockets: Report, version: int) -> None:
    """R121"""
    assert sockets[f"udp{version}"] == ["hello", VIPS[version], UDP_PORT]


@pytest.mark.parametrize("version", VIPS)
def test_connected_udp_sees_the_vip(sockets: Report, version: int) -> None:
    """R121"""
    assert sockets[f"udp{version}_connected"] == ["hello", VIPS[version], UDP_PORT]


def test_ipv4_mapped_address_on_an_ipv6_socket_reaches_the_backend(sockets: Report) -> None:
    assert sockets["tcp4_mapped"] == ["hello", f"::ffff:{VIPS[4]}", TCP_PORT]


@pytest.mark.parametrize("case", ["tcp_empty", "tcp_unknown_port"])
def test_tcp_without_endpoint_is_refused_at_once(sockets: Report, case: str) -> None:
    """R35, R37; below 5.18 by a reset instead of an error from the hook."""
    assert sockets[case] == "ECONNREFUSED", EMPTY_VIP


def test_udp_without_endpoint_fails_at_once(sockets: Report, kernel: str) -> None:
    """R35; below 5.18 a hook can give no other error than EPERM."""
    assert sockets["udp_empty"] == ("ECONNREFUSED" if HAS_SET_RETVAL[kernel] else "EPERM")


def test_connected_udp_socket_is_released_when_its_backend_goes(sockets: Report) -> None:
    """F47, R110; destroyed by the kernel's iterator where it can, through sock_diag below 6.5."""
    assert sockets["udp4_released"] == ["ECONNABORTED", "hello", VIPS[4], UDP_PORT]


def test_forwarding_survives_the_agent(sockets: Report) -> None:
    assert sockets["tcp4_agent_killed"] == ["hello", VIPS[4], TCP_PORT]
