# SPDX-License-Identifier: Apache-2.0
"""Rule sets as they stand on real nodes: kube-proxy's in each mode, and everybody else's.

kube-proxy's are what 1.36 writes (pkg/proxy/{iptables,ipvs,nftables}/proxier.go) for two Services,
one with session affinity, source ranges and a NodePort. Others': the kubelet's, CNI's portmap,
flannel's, Calico's, kube-router's, Docker's and an administrator's, with counters that are not 0.
All for iptables-restore --counters.
"""

# ruff: noqa: E501 (lines as the programs print them)

from __future__ import annotations

SVC, SVC_LB, SVL = (
    "KUBE-SVC-NPX46M4PTMTKRN6Y",
    "KUBE-SVC-XPGD46QRK7WJZT7O",
    "KUBE-SVL-GNZBNJ2PO5MGZ6GT",
)
SEP, SEP_2 = "KUBE-SEP-56DCZLUHMLZOEC4N", "KUBE-SEP-IZSOY5R7DNAT4HXT"
EXT, FW = "KUBE-EXT-XPGD46QRK7WJZT7O", "KUBE-FW-XPGD46QRK7WJZT7O"

KUBE_PROXY_IPTABLES = f"""\
*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-I INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-I FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/lb:http health check node port" -m tcp --dport 32001 -j ACCEPT
-A KUBE-PROXY-FIREWALL -d {{vip}} -p tcp -m comment --comment "default/lb:http traffic not accepted by {FW}" -m tcp --dport 80 -j DROP
-A KUBE-SERVICES -d {{idle}} -p tcp -m comment --comment "default/idle:http has no endpoints" -m tcp --dport 80 -j REJECT
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:{SVC} - [0:0]
:{SVC_LB} - [0:0]
:{SVL} - [0:0]
:{SEP} - [0:0]
:{SEP_2} - [0:0]
:{EXT} - [0:0]
:{FW} - [0:0]
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-SERVICES -d {{cluster_ip}} -p tcp -m comment --comment "default/kubernetes:https cluster IP" -m tcp --dport 443 -j {SVC}
-A KUBE-SERVICES -d {{vip}} -p tcp -m comment --comment "default/lb:http loadbalancer IP" -m tcp --dport 80 -j {FW}
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment default/lb:http -m tcp --dport 30080 -j {EXT}
-A {EXT} -m comment --comment "masquerade traffic for default/lb:http external destinations" -j KUBE-MARK-MASQ
-A {EXT} -j {SVC_LB}
-A {FW} -s {{client}} -m comment --comment "default/lb:http loadbalancer IP" -j {EXT}
-A {FW} -m comment --comment "other traffic to default/lb:http will be dropped by KUBE-PROXY-FIREWALL"
-A {SVC} -m comment --comment "default/kubernetes:https -> {{backend}}" -m recent --rcheck --seconds 10800 --reap --name {SEP} --mask {{mask}} --rsource -j {SEP}
-A {SVC} -m comment --comment "default/kubernetes:https -> {{backend}}" -m statistic --mode random --probability 0.50000000000 -j {SEP}
-A {SVC} -m comment --comment "default/kubernetes:https -> {{other}}" -j {SEP_2}
-A {SVL} -m comment --comment "default/lb:http -> {{backend}}" -j {SEP}
-A {SVC_LB} -m comment --comment "default/lb:http -> {{other}}" -j {SEP_2}
-A {SEP} -s {{backend}} -m comment --comment default/kubernetes:https -j KUBE-MARK-MASQ
-A {SEP} -p tcp -m comment --comment default/kubernetes:https -m recent --set --name {SEP} --mask {{mask}} --rsource -m tcp -j DNAT --to-destination {{backend_port}}
-A {SEP_2} -s {{other}} -m comment --comment default/kubernetes:https -j KUBE-MARK-MASQ
-A {SEP_2} -p tcp -m comment --comment default/kubernetes:https -m tcp -j DNAT --to-destination {{other_port}}
COMMIT
"""

KUBE_PROXY_IPVS = """\
*filter
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-I FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-I INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-I OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-NODE-PORT -m comment --comment "Kubernetes health check node port" -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
COMMIT
"""

OTHERS = """\
*mangle
:PREROUTING ACCEPT [7:420]
:INPUT ACCEPT [7:420]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [5:300]
:POSTROUTING ACCEPT [5:300]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
[3:180] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -m comment --comment "mss \\"clamp\\" -j KUBE-SERVICES" -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:INPUT ACCEPT [7:420]
:FORWARD DROP [2:120]
:OUTPUT ACCEPT [5:300]
:DOCKER-USER - [0:0]
:FLANNEL-FWD - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-NWPLCY-DEFAULT - [0:0]
:KUBE-POD-FW-QH2ZUX5BKKLDGW5Q - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:cali-FORWARD - [0:0]
[11:660] -A INPUT -j KUBE-FIREWALL
[1:60] -A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
[0:0] -A FORWARD -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD
[0:0] -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
[0:0] -A FORWARD -j DOCKER-USER
[0:0] -A OUTPUT -j KUBE-FIREWALL
[4:240] -A OUTPUT -p tcp -m tcp --dport 25 -m comment --comment "kubernetes service portals" -j REJECT
[0:0] -A DOCKER-USER -j RETURN
[0:0] -A FLANNEL-FWD -m comment --comment "flanneld forward" -j ACCEPT
[9:540] -A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
[0:0] -A KUBE-ROUTER-FORWARD -m comment --comment "rule to jump traffic to POD name:x namespace: default to chain KUBE-POD-FW-QH2ZUX5BKKLDGW5Q" -j KUBE-POD-FW-QH2ZUX5BKKLDGW5Q
[0:0] -A KUBE-POD-FW-QH2ZUX5BKKLDGW5Q -j KUBE-NWPLCY-DEFAULT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:FLANNEL-POSTRTG - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
[6:360] -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
[0:0] -A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
[0:0] -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
[0:0] -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
[0:0] -A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
[0:0] -A FLANNEL-POSTRTG -m comment --comment "flanneld masq" -j RETURN
[0:0] -A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
COMMIT
"""

PORTMAP_BORROWS_MARK = """\
*nat
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"cbr0\\" id: \\"7a\\"" -m multiport --dports 8080 -j KUBE-MARK-MASQ
COMMIT
"""
"""CNI's portmap with `externalSetMarkChain: KUBE-MARK-MASQ`."""

KUBE_PROXY_NFTABLES = """\
table {family} kube-proxy {{
    comment "rules for kube-proxy"
    set cluster-ips {{ type {address}_addr; comment "Active ClusterIPs"; elements = {{ {cluster_ip} }}; }}
    map service-ips {{
        type {address}_addr . inet_proto . inet_service : verdict
        elements = {{ {cluster_ip} . tcp . 443 : goto service-ULMVA6XW-default/kubernetes/tcp/https }}
    }}
    chain endpoint-5OJB2KTY-default/kubernetes/tcp/https__backend {{
        {match} saddr {backend} jump mark-for-masquerade
        meta l4proto tcp dnat to {backend_port}
    }}
    chain service-ULMVA6XW-default/kubernetes/tcp/https {{
        numgen random mod 1 vmap {{ 0 : goto endpoint-5OJB2KTY-default/kubernetes/tcp/https__backend }}
    }}
    chain services {{ {match} daddr . meta l4proto . th dport vmap @service-ips; }}
    chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
    chain masquerading {{
        mark and 0x4000 == 0 return
        mark set mark xor 0x4000
        masquerade fully-random
    }}
    chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
    chain nat-output {{ type nat hook output priority -100; jump services; }}
    chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
}}
"""

OTHERS_NFTABLES = """\
table inet firewalld {
    set trusted { type ipv4_addr; elements = { 192.0.2.7 }; }
    chain input { type filter hook input priority filter; policy accept; ip saddr @trusted counter packets 5 bytes 300 accept; }
}
table ip kube-proxy-monitor {
    chain watch { type filter hook forward priority filter + 10; policy accept; counter packets 2 bytes 120; }
}
table ip6 egress {
    chain post { type nat hook postrouting priority srcnat; policy accept; oifname "eth9" masquerade; }
}
"""

ADDRESSES = {
    4: {
        "cluster_ip": "10.96.0.1",
        "vip": "192.0.2.10",
        "idle": "10.96.0.99",
        "client": "198.51.100.0/24",
        "backend": "10.244.1.5",
        "other": "10.244.2.5",
        "backend_port": "10.244.1.5:6443",
        "other_port": "10.244.2.5:6443",
        "mask": "255.255.255.255",
    },
    6: {
        "cluster_ip": "fd00:10:96::1",
        "vip": "2001:db8::10",
        "idle": "fd00:10:96::99",
        "client": "2001:db8:1::/64",
        "backend": "fd00:10:244:1::5",
        "other": "fd00:10:244:2::5",
        "backend_port": "[fd00:10:244:1::5]:6443",
        "other_port": "[fd00:10:244:2::5]:6443",
        "mask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    },
}


def kube_proxy_iptables(family: int) -> str:
    return KUBE_PROXY_IPTABLES.format(**ADDRESSES[family])


def kube_proxy_nftables(family: int) -> str:
    name = "ip" if family == 4 else "ip6"
    return KUBE_PROXY_NFTABLES.format(
        family=name, match=name, address=f"ipv{family}", **ADDRESSES[family]
    )
