# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's rules go from a kernel that holds everybody's; everybody else's stay as they were.

In namespaces of their own, with the real programs. F55.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import kube_proxy_rules as rules
from tests.support.scratch_netns import ScratchNetns, scratch_netns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

_REMOVE = """
import json
from vipbee.takeover.rules import find_rules, remove_rules
found = find_rules()
removed = remove_rules(found)
print(json.dumps([str(found), removed.chains, removed.tables, removed.kept]))
"""


@pytest.fixture
def netns() -> Iterator[ScratchNetns]:
    with scratch_netns() as netns:
        yield netns


def remove(netns: ScratchNetns) -> tuple[str, int, int, dict[str, str]]:
    found, chains, tables, kept = json.loads(netns.run([sys.executable, "-c", _REMOVE]).stdout)
    return found, chains, tables, kept


def find(netns: ScratchNetns) -> str:
    code = "from vipbee.takeover.rules import find_rules; print(find_rules())"
    return netns.run([sys.executable, "-c", code]).stdout.strip()


def load(netns: ScratchNetns, program: str, text: str) -> None:
    netns.run([f"{program}-restore", "--noflush", "--counters"], given=text)


def saved(netns: ScratchNetns, program: str) -> str:
    """All rules, chains, policies and counters of rules, without the dates.

    The legacy programs start the counters of policies anew whenever a chain comes or goes.
    """
    text = netns.run([f"{program}-save", "--counters"]).stdout
    if program.endswith("-legacy"):
        text = re.sub(r"^(:[A-Z]+ (?:ACCEPT|DROP)) .*", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)


PROGRAMS = [
    (f"{base}-{backend}", family)
    for base, family in (("iptables", 4), ("ip6tables", 6))
    for backend in ("nft", "legacy")
]


@pytest.mark.parametrize(("program", "family"), PROGRAMS)
def test_iptables_mode_goes_and_others_stay_byte_for_byte(
    netns: ScratchNetns, program: str, family: int
) -> None:
    load(netns, program, rules.OTHERS)
    before = saved(netns, program)
    load(netns, program, rules.kube_proxy_iptables(family))
    assert "KUBE-SERVICES" in saved(netns, program)

    found, chains, _, kept = remove(netns)

    assert program in found
    assert chains == 19
    assert kept == {}
    assert saved(netns, program) == before
    assert find(netns) == ""


def test_both_backends_are_cleared_at_once(netns: ScratchNetns) -> None:
    """A node that changed its backend has rules of before in the other one."""
    for program, family in PROGRAMS:
        load(netns, program, rules.kube_proxy_iptables(family))

    found, chains, _, _ = remove(netns)

    assert all(program in found for program, _ in PROGRAMS)
    assert chains == 4 * 19
    assert find(netns) == ""


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_chain_that_somebody_else_borrows_stays_with_what_it_needs(
    netns: ScratchNetns, program: str
) -> None:
    load(netns, program, rules.OTHERS)
    load(netns, program, rules.kube_proxy_iptables(4))
    load(netns, program, rules.PORTMAP_BORROWS_MARK)

    _, _, _, kept = remove(netns)
    after = saved(netns, program)

    assert set(kept) == {"KUBE-MARK-MASQ", "KUBE-POSTROUTING"}
    assert 'dnat name: \\"cbr0\\"' in kept["KUBE-MARK-MASQ"]
    assert re.search(r"-A POSTROUTING .*-j KUBE-POSTROUTING", after)
    assert re.search(r"-A KUBE-POSTROUTING .*-j MASQUERADE", after)
    assert re.search(r"-A KUBE-MARK-MASQ -j MARK", after)
    assert "KUBE-SVC-" not in after
    assert "KUBE-SERVICES - " not in after
    assert find(netns) == ""  # and what stays is no reason to refuse


def test_what_a_kubelet_alone_makes_is_not_taken_for_kube_proxy(netns: ScratchNetns) -> None:
    """Kubelets before 1.28 make KUBE-MARK-MASQ and KUBE-POSTROUTING, too."""
    load(netns, "iptables-nft", rules.OTHERS)
    load(
        netns, "iptables-nft", "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\nCOMMIT\n"
    )

    assert find(netns) == ""


def test_legacy_tables_are_not_made_by_looking(netns: ScratchNetns) -> None:
    find(netns)

    assert netns.run(["cat", "/proc/net/ip_tables_names"], check=False).stdout == ""
    assert netns.run(["nft", "list", "ruleset"]).stdout == ""


@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_ipvs_mode_goes_with_its_sets(netns: ScratchNetns, program: str) -> None:
    """The virtual servers themselves: tests/unit/takeover; this kernel may lack IPVS."""
    sets = """
from pyroute2 import IPSet
with IPSet() as sets:
    sets.create("KUBE-CLUSTER-IP", "hash:ip,port")
    sets.create("KUBE-NODE-PORT-TCP", "bitmap:port", bitmap_ports_range=(0, 65535))
    sets.create("KUBE-HEALTH-CHECK-NODE-PORT", "bitmap:port", bitmap_ports_range=(0, 65535))
    sets.create("KUBE-6-CLUSTER-IP", "hash:ip,port", family=10)
    sets.create("KUBE-SRC-OF-SOMEBODY", "hash:ip")
    sets.create("cali40all-hosts-net", "hash:net")
"""
    netns.run([sys.executable, "-c", sets])
    load(netns, program, rules.OTHERS)
    before = saved(netns, program)
    load(netns, program, rules.KUBE_PROXY_IPVS)
    netns.run(["ip", "link", "add", "kube-ipvs0", "type", "bridge"])  # dummy may not be there
    netns.run(["ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0"])

    found, chains, _, kept = remove(netns)

    assert "kube-ipvs0" in found
    assert "4 sets of addresses" in found
    assert (chains, kept) == (11, {})
    assert saved(netns, program) == before
    assert "kube-ipvs0" not in netns.run(["ip", "link"]).stdout
    listed = netns.run(
        [
            *(sys.executable, "-c"),
            "from pyroute2 import IPSet\nwith IPSet() as s:\n"
            " print(*sorted(m.get_attr('IPSET_ATTR_SETNAME') for m in s.list()))",
        ]
    )
    assert listed.stdout.split() == ["KUBE-SRC-OF-SOMEBODY", "cali40all-hosts-net"]
    assert find(netns) == ""


def test_nftables_mode_goes_and_others_stay_byte_for_byte(netns: ScratchNetns) -> None:
    mine = "table ip mine {\n chain out { type nat hook output priority 0; }\n}\n"
    netns.run(["nft", "-f", "-"], given=rules.OTHERS_NFTABLES + mine)
    before = netns.run(["nft", "list", "ruleset"]).stdout
    for family in (4, 6):
        netns.run(["nft", "-f", "-"], given=rules.kube_proxy_nftables(family))
    assert netns.run(["nft", "list", "ruleset"]).stdout != before

    found, _, tables, _ = remove(netns)

    assert found == "table ip kube-proxy in nftables, table ip6 kube-proxy in nftables"
    assert tables == 2
    assert netns.run(["nft", "list", "ruleset"]).stdout == before
    assert find(netns) == ""


_DIALOGUE = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], 6443), family=int(sys.argv[3]))
def echo():
    connection, _ = listener.accept()
    while data := connection.recv(100):
        connection.sendall(data)
threading.Thread(target=echo, daemon=True).start()
client = socket.create_connection((sys.argv[2], 443), timeout=3)
for question in sys.stdin:
    client.sendall(b"ping")
    print(client.recv(100).decode(), flush=True)
"""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mode", ["iptables-nft", "iptables-legacy", "nftables"])
def test_connection_that_kube_proxy_translated_lives_on(
    netns: ScratchNetns, mode: str, family: int
) -> None:
    """R34. As long as somebody else uses NAT: here the kubelet's and the networks' rules."""
    address = rules.ADDRESSES[family]
    service = address["cluster_ip"]
    nodad = ["nodad"] if family == 6 else []  # a tentative address is no source of a route
    netns.run(["ip", "address", "add", address["backend"], "dev", "lo", *nodad])
    netns.run(["ip", "route", "add", service, "dev", "lo", "src", address["backend"]])
    program = mode.replace("nftables", "iptables-nft").replace("ip", "ip6" if family == 6 else "ip")
    load(netns, program, rules.OTHERS)
    if mode == "nftables":
        netns.run(["nft", "-f", "-"], given=rules.kube_proxy_nftables(family))
    else:
        text = re.sub(r"-A .* --probability 0.5.*\n", "", rules.kube_proxy_iptables(family))
        load(netns, program, text.replace(address["other_port"], address["backend_port"]))
    number = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
    dialogue = subprocess.Popen(
        [
            *(*netns.enter, sys.executable, "-c", _DIALOGUE),
            *(address["backend"], service, str(int(number))),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with dialogue:
        assert dialogue.stdin is not None
        assert dialogue.stdout is not None
        print("before", file=dialogue.stdin, flush=True)
        assert dialogue.stdout.readline() == "ping\n"

        found, _, _, _ = remove(netns)

        print("after", file=dialogue.stdin, flush=True)
        assert dialogue.stdout.readline() == "ping\n"
        dialogue.stdin.close()
    assert found
    assert find(netns) == ""
