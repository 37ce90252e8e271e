# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vipbee.abi import AffinityClient
from vipbee.address import parse_address
from vipbee.observe.affinity_clients import client_name, netns_key


@pytest.mark.parametrize("cookie", [1, 4097, 0xFFFFFFFF, 1 << 32, 0x123456789ABCDEF0])
def test_a_namespace_is_named_by_its_cookie(cookie: int) -> None:
    assert client_name(AffinityClient.NETNS, netns_key(cookie)) == f"netns:{cookie}"


def test_a_client_in_packets_is_named_by_its_address() -> None:
    assert client_name(AffinityClient.ADDRESS, parse_address("192.0.2.7")) == "192.0.2.7"
