# SPDX-License-Identifier: Apache-2.0
"""What each counter of `reasons` means, in a sentence that begins with what was done.

The counters' own comments are in bpf/abi.h; this is for who sees one grow.
"""

from __future__ import annotations

from collections.abc import Mapping

from vipbee.abi import Reason

MEANINGS: Mapping[Reason, str] = {
    Reason.NO_ENDPOINT: "refused: the Service port has no usable endpoint",
    Reason.UNKNOWN_PORT: "refused: a ClusterIP, but no Service has that port of it",
    Reason.NO_LOCAL_ENDPOINT: (
        "dropped, without packet layer EHOSTUNREACH: policy Local, all endpoints are elsewhere"
    ),
    Reason.TABLE_RACE: "refused: the Service changed three times during one lookup",
    Reason.BIND_PROTECTED: "refused: a program wanted to listen on a NodePort",
    Reason.FLOW_NOT_STORED: (
        "no room to remember it: a packet was dropped, a socket sees its backend's address"
    ),
    Reason.MALFORMED: "dropped: cut off, or lengths that contradict each other",
    Reason.EXTENSION_HEADERS: "dropped: more IPv6 extension headers than are read",
    Reason.MARTIAN: "dropped: from or to an address that cannot be there, as loopback from outside",
    Reason.FRAGMENT_UNKNOWN: "dropped: a later fragment, and its connection is not known",
    Reason.FRAGMENT_TINY: "dropped: fragments that cut or overwrite the ports",
    Reason.PROTOCOL: "dropped: to a ClusterIP, and neither TCP nor UDP",
    Reason.SOURCE_RANGE: "dropped: the client is outside loadBalancerSourceRanges",
    Reason.NO_CONNECTION: "dropped: TCP without SYN, and no such connection is known",
    Reason.SNAT_EXHAUSTED: "refused: no source port is free towards that backend",
    Reason.SNAT_NO_ADDRESS: "dropped: the outgoing device has no address of that family",
    Reason.NO_ROUTE: "dropped: no route to the backend, or back to the client",
    Reason.TTL_EXPIRED: "dropped: its TTL or hop limit ended here",
    Reason.TOO_BIG: "dropped: larger than the path's MTU, the sender was told",
    Reason.REFUSAL_LIMITED: "dropped: refused, but not told so: a CPU refuses 1,000 times a second",
    Reason.ICMP_UNKNOWN: "dropped: an ICMP error about no connection that is known",
    Reason.ICMP_MALFORMED: "dropped: an ICMP error with an unreadable quote or a wrong checksum",
    Reason.ECHO_IGNORED: "dropped: a ping of a ClusterIP",
    Reason.ECHO_ANSWERED: "answered: a ping of an external or load balancer IP",
    Reason.ESTABLISHED_FULL: (
        "passed: the table of established connections is full, a flood may evict this one"
    ),
    Reason.REWRITE_FAILED: "dropped: the kernel refused to change the packet",
    Reason.CLUSTER_IP_OUTSIDE: "dropped: a ClusterIP dialled from outside, or forwarded",
    Reason.ICMP_PASSED: "passed: an ICMP error about an address of the node, maybe its own",
    Reason.NODE_CONNECTION: "passed: TCP without SYN to a NodePort, the node's own or older",
    Reason.SNAT_MOVED: "translated: the client's source port was taken, another one was found",
    Reason.TWIN_REPAIRED: "translated: one half of a connection had been lost and was rebuilt",
    Reason.UNALLOCATED: "dropped: in a ServiceCIDR, and no Service has that address",
    Reason.FRAGMENT_HELD: "held: a later fragment that came before the first one of its datagram",
}


def meaning(name: str) -> str:
    """Of a reason by its name in lower case."""
    return MEANINGS[Reason[name.upper()]]
