# SPDX-License-Identifier: Apache-2.0
"""What is kube-proxy's and what is not, without a kernel. F55."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import kube_proxy_rules as rules
from vipbee.takeover.chains import count_chains, plan_removal
from vipbee.takeover.ipvs import VirtualServer, own_servers, parse_servers
from vipbee.takeover.running import find_running

SERVERS = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> 0A6F7E05:192B      Masq    1      0          0
UDP  C0A80105:7D35 rr persistent 10800
TCP  [fd00:0010:0096:0000:0000:0000:0000:0001]:01BB rr
  -> [fd00:0010:0244:0000:0000:0000:0000:0005]:192B      Masq    1      0          0
TCP  C0A80105:0050 wlc
FWM  00000001 wlc
"""
OF_KUBE_PROXY = [
    VirtualServer(6, "10.96.0.1", 443),
    VirtualServer(17, "192.168.1.5", 32053),
    VirtualServer(6, "fd00:10:96::1", 443),
]
NOWHERE = ("127.0.0.1", 1)  # no port anybody listens on


def test_rules_without_kube_proxy_ask_for_nothing() -> None:
    removal = plan_removal(rules.OTHERS.replace("[0:0] -A", "-A"))

    assert (removal.restore_input, removal.gone, dict(removal.kept)) == ("", 0, {})


@given(
    st.lists(
        st.sampled_from(
            [
                "KUBE-KUBELET-CANARY",
                "KUBE-FIREWALL",
                "KUBE-MARK-DROP",
                "KUBE-IPTABLES-HINT",
                "KUBE-ROUTER-FORWARD",
                "KUBE-POD-FW-ABC",
                "KUBE-NWPLCY-X",
                "CNI-HOSTPORT-DNAT",
                "cali-FORWARD",
                "DOCKER",
                "KUBE-SVC",
                "MY-KUBE-SERVICES",
                "KUBE-SERVICES-MINE",
            ]
        )
    )
)
def test_chain_of_somebody_else_is_never_named(chains: list[str]) -> None:
    for table in ("nat", "filter", "mangle", "raw"):
        saved = "".join(f":{chain} - [0:0]\n" for chain in chains)
        assert plan_removal(f"*{table}\n{saved}COMMIT\n").restore_input == ""


@pytest.mark.parametrize(
    "rule",
    [
        "-A OUTPUT -j KUBE-SERVICES",
        '-A FORWARD -m comment --comment "mine" -j KUBE-SERVICES',
        "-A MY-CHAIN -g KUBE-SERVICES",
    ],
)
def test_jump_that_kube_proxy_did_not_write_keeps_its_target(rule: str) -> None:
    saved = f"*filter\n:OUTPUT ACCEPT\n:MY-CHAIN -\n:KUBE-SERVICES -\n{rule}\nCOMMIT\n"

    removal = plan_removal(saved)

    assert removal.restore_input == ""
    assert removal.kept == {"KUBE-SERVICES": rule}


def test_comment_that_only_looks_like_a_jump_keeps_nothing() -> None:
    saved = (
        "*filter\n:OUTPUT ACCEPT\n:KUBE-SERVICES -\n"
        '-A OUTPUT -m comment --comment "see -j KUBE-SERVICES" -j DROP\nCOMMIT\n'
    )

    assert plan_removal(saved).gone == 1


def test_chains_that_a_kubelet_makes_too_prove_nothing() -> None:
    saved = "*nat\n:KUBE-MARK-MASQ -\n:KUBE-POSTROUTING -\nCOMMIT\n"

    assert count_chains(saved) == 0


def test_virtual_servers_of_others_are_told_apart() -> None:
    """keepalived's on the node's own address, and those by firewall mark."""
    servers = list(parse_servers(SERVERS))

    own = own_servers(servers, {"10.96.0.1", "fd00:10:96::1"}, {(17, 32053)})

    assert len(servers) == 4
    assert list(own) == OF_KUBE_PROXY


@pytest.mark.parametrize(
    ("comm", "same", "seen"),
    [
        ("kube-proxy", True, "process 77"),
        ("kube-proxy", False, ""),
        ("kube-proxy-ex", True, ""),
    ],
)
def test_only_a_process_of_that_name_in_our_namespace_counts(
    tmp_path: Path, comm: str, same: bool, seen: str
) -> None:
    for name, network in (("self", "net:[1]"), ("77", "net:[1]" if same else "net:[2]")):
        (tmp_path / name / "ns").mkdir(parents=True)
        os.symlink(network, tmp_path / name / "ns/net")
    (tmp_path / "77/comm").write_text(f"{comm}\n")
    (tmp_path / "uptime").mkdir()

    assert find_running(tmp_path, NOWHERE) == seen


def test_a_hundred_thousand_rules_are_read_in_one_pass() -> None:
    """Comparing each with all others would take minutes, with kube-proxy already gone."""
    number = 50_000
    names = [f"KUBE-SEP-{i:016d}" for i in range(number)]
    chains = "".join(f":{name} - [0:0]\n" for name in names)
    saved = "".join(f"-A {name} -j DNAT --to-destination 10.0.0.1:80\n" for name in names)

    started = time.process_time()
    removal = plan_removal(f"*nat\n{chains}{saved}COMMIT\n")

    assert removal.gone == number
    assert time.process_time() - started < 5
