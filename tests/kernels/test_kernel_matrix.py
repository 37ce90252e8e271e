# SPDX-License-Identifier: Apache-2.0
"""The shipped object and agent on Debian's kernels: the floor, and each stable since.

One boot a kernel, some ten seconds under software emulation; every test reads what that
guest reported. Where a kernel cannot be had the tests are skipped by name with the
reason; with CI=true that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.guest_smoke import EMPTY_VIP, STATE_FILE, TCP_PORT, UDP_PORT, VIPS
from tests.support import vm
from tests.support.debian_kernel import KernelUnavailableError, obtain

HERE = Path(__file__).resolve().parent
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
HAS_SET_RETVAL = {"5.10": False, "6.1": True, "6.12": True}  # since 5.18

Report = dict[str, Any]


@pytest.fixture(scope="module", params=SUITES)
def kernel(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.fixture(scope="module")
def boots(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Report]]]:
    """Boot what the selected tests need, two machines at a time."""
    wanted = {
        str(item.callspec.params["kernel"]): None
        for item in request.session.items
        if isinstance(item, pytest.Function) and "boots" in item.fixturenames
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {version: pool.submit(boot, version) for version in wanted}


@pytest.fixture(scope="module")
def report(kernel: str, boots: dict[str, Future[Report]]) -> Report:
    """What the guest saw; one boot is shared by all tests of a kernel."""
    try:
        return boots[kernel].result()
    except KernelUnavailableError as error:
        reason = f"kernel {kernel} of Debian {SUITES[kernel]} cannot be had: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def boot(version: str) -> Report:
    if (reason := vm.missing_tools()) is not None:
        raise KernelUnavailableError(reason)
    guest = vm.Guest(
        script=HERE / "guest_smoke.py",
        requirements=("vipbee",),
        files=((HERE / "state.yaml", STATE_FILE),),
    )
    seen = vm.run(obtain(SUITES[version], version), guest)
    assert isinstance(seen, dict)
    return seen


def test_check_finds_the_kernel_usable(report: Report) -> None:
    assert report["check"]["exit"] == 0, report["check"]["output"]


@pytest.mark.parametrize("version", VIPS)
def test_tcp_reaches_the_backend_and_sees_the_vip(report: Report, version: int) -> None:
    """R121"""
    assert report[f"tcp{version}"] == ["hello", VIPS[version], TCP_PORT]


@pytest.mark.parametrize("version", VIPS)
def test_datagrams_come_back_from_the_vip(report: Report, version: int) -> None:
    """R121"""
    assert report[f"udp{version}"] == ["hello", VIPS[version], UDP_PORT]


@pytest.mark.parametrize("version", VIPS)
def test_connected_udp_sees_the_vip(report: Report, version: int) -> None:
    """R121"""
    assert report[f"udp{version}_connected"] == ["hello", VIPS[version], UDP_PORT]


def test_ipv4_mapped_address_on_an_ipv6_socket_reaches_the_backend(report: Report) -> None:
    assert report["tcp4_mapped"] == ["hello", f"::ffff:{VIPS[4]}", TCP_PORT]


@pytest.mark.parametrize("case", ["tcp_empty", "tcp_unknown_port"])
def test_tcp_without_endpoint_is_refused_at_once(report: Report, case: str) -> None:
    """R35, R37; below 5.18 by a reset instead of an error from the hook."""
    assert report[case] == "ECONNREFUSED", EMPTY_VIP


def test_udp_without_endpoint_fails_at_once(report: Report, kernel: str) -> None:
    """R35; below 5.18 a hook can give no other error than EPERM."""
    assert report["udp_empty"] == ("ECONNREFUSED" if HAS_SET_RETVAL[kernel] else "EPERM")


def test_connected_udp_socket_is_released_when_its_backend_goes(report: Report) -> None:
    """R110; destroyed by the kernel's iterator where it can, through sock_diag below 6.5."""
    assert report["udp4_released"] == ["ECONNABORTED", "hello", VIPS[4], UDP_PORT]


def test_forwarding_survives_the_agent(report: Report) -> None:
    assert report["tcp4_agent_killed"] == ["hello", VIPS[4], TCP_PORT]


def test_status_reads_the_pins_without_an_agent(report: Report) -> None:
    assert "Traceback" not in report["status"]["output"]


def test_cleanup_leaves_nothing(report: Report) -> None:
    assert report["cleanup"]["exit"] == 0, report["cleanup"]["output"]
    assert report["left_behind"] == []
