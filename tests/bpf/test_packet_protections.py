# SPDX-License-Identifier: Apache-2.0
"""Every protection of the packet layer is needed: without it the hostile packet does harm.

Each test compiles the datapath without one protection and lets the same packets meet the
shipped object and the weakened one. Why a packet is dropped without harm to anybody, so that
nothing can be shown, stands in NO_PROTECTION.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import hostile
from tests.support.packet_bench import Bench
from tests.support.weakened import Edit, compile_weakened
from vipbee.abi import Reason


@dataclass(frozen=True)
class Protection:
    rows: str
    harm: Callable[[Bench], bool]
    edits: tuple[Edit, ...]
    reason: Reason | None = None  # it counts as
    sizes: dict[str, int] = field(default_factory=dict)
    config: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.harm.__name__


SMALL = {
    f"{table}_new_{zone}": hostile.SMALL
    for table in ("conntrack", "nat")
    for zone in ("outside", "pod")
}

PROTECTIONS = [
    # ---- who may begin
    Protection(
        "D20, D81",
        hostile.a_stray_segment_opens_a_connection,
        (
            (
                "packet_decide.h",
                "if (p->tuple.protocol == IPPROTO_TCP && !is_clean_syn(p))",
                "if (0)",
            ),
        ),
        Reason.NO_CONNECTION,
    ),
    Protection(
        "D146",
        hostile.nobody_s_address_opens_a_connection,
        (("martian.h", "return is_loopback(source) ||", "return"),),
        Reason.MARTIAN,
    ),
    Protection(
        "D146",
        hostile.the_node_s_address_opens_a_connection,
        (("martian.h", "(ADDRESS_OWN | ADDRESS_SNAT | ADDRESS_CLUSTER_IP", "(ADDRESS_CLUSTER_IP"),),
        Reason.MARTIAN,
    ),
    Protection(
        "D146",
        hostile.a_connection_of_the_node_s_is_taken_part_in,
        (
            (
                "conntrack.h",
                "return (ct->flags & (CONNTRACK_NODE_CLIENT | CONNTRACK_CROSSING)) == whose;",
                "return 1;",
            ),
        ),
        Reason.MARTIAN,
    ),
    Protection(
        "D145",
        hostile.loopback_is_reached,
        (("tc.bpf.c", "if (is_loopback(&p.tuple.destination))", "if (0)"),),
        Reason.MARTIAN,
    ),
    Protection(
        "D141, D152",
        hostile.an_ipv6_packet_reaches_an_ipv4_vip,
        (
            ("packet.h", "if (is_v4(&p->tuple.destination))", "if (0)"),
            ("martian.h", "if (is_v4(source) != is_v4(&tuple->destination))", "if (0)"),
        ),
    ),
    Protection(
        "R42",
        hostile.a_cluster_ip_is_reached,
        (
            (
                "packet_decide.h",
                "if (frontend.kind == FRONTEND_CLUSTER_IP && zone == ZONE_OUTSIDE &&",
                "if (0 && zone == ZONE_OUTSIDE &&",
            ),
        ),
        Reason.CLUSTER_IP_OUTSIDE,
    ),
    Protection(
        "D141, R80",
        hostile.an_excluded_client_is_served,
        (("packet_decide.h", "return !!bpf_map_lookup_elem(", "return 1 || bpf_map_lookup_elem("),),
        Reason.SOURCE_RANGE,
    ),
    Protection(
        "D6",
        hostile.a_packet_longer_than_its_frame_opens_a_connection,
        (
            (
                "packet.h",
                "p->length < header_length ||\n\t    p->length > bytes_after(ctx, l2))",
                "p->length < header_length)",
            ),
        ),
        Reason.MALFORMED,
    ),
    Protection(
        "D3, D4",
        hostile.padding_opens_a_connection,
        (
            ("packet.h", "l4_length(p) < sizeof(tcp) || ", ""),
            ("packet.h", "(p->fragment == NOT_FRAGMENTED && offset * 4 > l4_length(p))", "0"),
        ),
        Reason.MALFORMED,
    ),
    Protection(
        "D3",
        hostile.an_echo_without_header_is_answered,
        (("packet.h", "l4_length(p) < ICMP_HEADER || ", ""),),
        Reason.MALFORMED,
    ),
    Protection(
        "D14",
        hostile.another_protocol_reaches_the_stack,
        (("tc.bpf.c", "dropped(REASON_PROTOCOL)", "TC_ACT_UNSPEC"),),
        Reason.PROTOCOL,
    ),
    # ---- parts
    Protection(
        "D27",
        hostile.a_part_rewrites_flags_that_were_judged,
        (("packet.h", "if (protocol == IPPROTO_TCP && offset < sizeof(struct tcphdr))", "if (0)"),),
        Reason.FRAGMENT_TINY,
    ),
    Protection(
        "D23, D25",
        hostile.a_part_without_its_first_reaches_the_stack,
        (
            (
                "tc.bpf.c",
                "return held ? TC_ACT_SHOT : dropped(REASON_FRAGMENT_UNKNOWN);",
                "return TC_ACT_UNSPEC;",
            ),
        ),
        Reason.FRAGMENT_UNKNOWN,
    ),
    Protection(
        "D24",
        hostile.a_part_is_taken_for_an_old_datagram_s,
        (
            (
                "fragment.h",
                "if (!known || (__s32)(now_s() - known->last_seen) >"
                " (__s32)config.lifetime_fragment_s)",
                "if (!known)",
            ),
        ),
    ),
    # ---- connections of others
    Protection(
        "D70",
        hostile.a_blind_reset_ends_a_connection,
        (
            (
                "conntrack_seen.h",
                "return !known || p->sequence - expected < RST_WINDOW;",
                "return 1;",
            ),
        ),
    ),
    Protection(
        "D71",
        hostile.a_reset_ends_a_connection_that_goes_on,
        (("conntrack_seen.h", "\tseen &= ~SEEN_RST;\n", ""),),
    ),
    Protection(
        "D68, D88",
        hostile.a_segment_follows_a_connection_long_over,
        (
            (
                "conntrack.h",
                "return (__s32)(now - ct->last_seen) <= (__s32)lifetime(ct, protocol);",
                "return 1;",
            ),
        ),
    ),
    Protection(
        "D77, R111",
        hostile.a_flow_follows_a_backend_that_is_another_by_now,
        (("backend.h", "if (!backend || backend->generation != generation)", "if (!backend)"),),
    ),
    Protection(
        "D85",
        hostile.a_direct_connection_is_shown_as_the_vip,
        (("from_backend.h", "if (!redirected && is_of_direct_connection(ct, p))", "if (0)"),),
    ),
    Protection(
        "D116, D117",
        hostile.clients_alone_fill_the_established_table,
        (
            (
                "conntrack_seen.h",
                "if (ct->backend_seen & SEEN_SYN)\n\t\t\tseen |= SEEN_PACKET;",
                "seen |= SEEN_PACKET;",
            ),
        ),
    ),
    Protection(
        "D118",
        hostile.datagrams_alone_fill_the_established_table,
        (("conntrack_seen.h", "return ct->backend_seen & SEEN_PACKET;", "return 1;"),),
    ),
    Protection(
        "D116",
        hostile.a_flood_costs_an_established_connection,
        (("from_client.h", "promote(zone, &p->tuple);", "if (0) promote(zone, &p->tuple);"),),
        sizes=SMALL,
    ),
    Protection(
        "D116: zones",
        hostile.a_flood_from_outside_costs_a_pod_s_connection,
        (("conntrack.h", "if (zone == ZONE_OUTSIDE)", "if (zone != (enum zone)7)"),),
        sizes=SMALL,
    ),
    # ---- source ports
    Protection(
        "D101, D102, R124",
        hostile.two_connections_share_a_port,
        (
            ("snat.h", "if (!tuple_is_free(zone, reply, draft->nat.last_seen))", "if (0)"),
            ("snat.h", "reply, &draft->nat, BPF_NOEXIST)", "reply, &draft->nat, BPF_ANY)"),
        ),
    ),
    Protection(
        "D105",
        hostile.the_node_loses_its_own_answers,
        (
            (
                "snat.h",
                "CONNTRACK_SOURCE_NAT && node_uses(ctx, p, reply)",
                "CONNTRACK_SOURCE_NAT && 0",
            ),
        ),
    ),
    Protection(
        "D107, R94",
        hostile.an_answer_is_taken_for_a_nodeport_s,
        (
            (
                "snat.h",
                "return port >= PRIVILEGED_PORTS && !is_node_port_number(port);",
                "return 1;",
            ),
        ),
    ),
    # ---- answers, errors, loops
    Protection(
        "R35",
        hostile.refusals_have_no_limit,
        (("refuse.h", "if (budget->sent >= config.refusals_per_second)", "if (0)"),),
        Reason.REFUSAL_LIMITED,
        config={"refusals_per_second": 10},
    ),
    Protection(
        "D136",
        hostile.a_reset_is_answered,
        (("refuse.h", "if (p->tcp_flags & TCP_RST || !may_answer())", "if (!may_answer())"),),
    ),
    Protection(
        "D63",
        hostile.a_new_packet_leaves_with_ttl_0,
        (("open_connection.h", "if (p->ttl <= 1)", "if (0)"),),
        Reason.TTL_EXPIRED,
    ),
    Protection(
        "D63",
        hostile.a_packet_leaves_with_ttl_0,
        (("packet_apply.h", "if (p->ttl <= 1)", "if (0)"),),
        Reason.TTL_EXPIRED,
    ),
    Protection(
        "D57",
        hostile.a_broken_error_reaches_the_client,
        (
            (
                "icmp_apply.h",
                "if (checksum_is_wrong(ctx, p))",
                "if (0 && checksum_is_wrong(ctx, p))",
            ),
        ),
        Reason.ICMP_MALFORMED,
    ),
    Protection(
        "D31",
        hostile.an_error_about_a_later_part_is_believed,
        (("icmp.h", " || ip.frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET)", ""),),
    ),
    Protection(
        "D58",
        hostile.an_error_about_nothing_reaches_the_stack,
        (("icmp_apply.h", "return dropped(REASON_ICMP_UNKNOWN);", "return TC_ACT_UNSPEC;"),),
        Reason.ICMP_UNKNOWN,
    ),
    Protection(
        "D64, R39",
        hostile.an_echo_runs_in_circles,
        (("icmp_apply.h", "return dropped(REASON_ECHO_IGNORED);", "return TC_ACT_UNSPEC;"),),
        Reason.ECHO_IGNORED,
    ),
    Protection(
        "D52, D127",
        hostile.a_path_that_is_too_narrow_is_kept_from_the_client,
        (("open_connection.h", "return VERDICT_TOO_BIG;", "return drop(REASON_NO_ROUTE);"),),
        Reason.TOO_BIG,
    ),
]

NO_PROTECTION = {
    Reason.NO_ENDPOINT: "a verdict of the rules (R35)",
    Reason.UNKNOWN_PORT: "a verdict of the rules (R37)",
    Reason.NO_LOCAL_ENDPOINT: "a verdict of the rules (R44)",
    Reason.TABLE_RACE: "needs a table that changes within one packet",
    Reason.BIND_PROTECTED: "the socket layer's: tests/bpf/test_nodeport.py",
    Reason.FLOW_NOT_STORED: "no connection without memory: nothing was switched off",
    Reason.EXTENSION_HEADERS: "the verifier refuses a program without that bound (D11)",
    Reason.SNAT_EXHAUSTED: "no port is left: nothing was switched off (D103)",
    Reason.SNAT_NO_ADDRESS: "no address to use: nothing was switched off",
    Reason.NO_ROUTE: "routing says so",
    Reason.ECHO_ANSWERED: "an answer",
    Reason.UNALLOCATED: "a verdict of the rules (R38)",
    Reason.FRAGMENT_HELD: "a remark: it goes on when its first one comes",
    Reason.ESTABLISHED_FULL: "a remark: the connection is served",
    Reason.REWRITE_FAILED: "the kernel says so",
    Reason.ICMP_PASSED: "passed: a remark",
    Reason.NODE_CONNECTION: "passed: a remark",
    Reason.SNAT_MOVED: "translated: a remark",
    Reason.TWIN_REPAIRED: "translated: a remark",
}


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda protection: protection.name)
def test_without_it_harm_is_done(
    protection: Protection, packet_bench: Bench, tmp_path: Path
) -> None:
    """D3-D146, each row at its protection; with the shipped object the same does no harm."""
    weakened = compile_weakened(protection.edits, tmp_path)

    with shipped(protection, packet_bench) as bench:
        harm_with = protection.harm(bench)
    with Bench.up(path=weakened, sizes=protection.sizes, **protection.config) as bench:
        harm_without = protection.harm(bench)

    assert (harm_with, harm_without) == (False, True)


@contextlib.contextmanager
def shipped(protection: Protection, packet_bench: Bench) -> Iterator[Bench]:
    """One for all protections that ask for nothing special."""
    if not protection.sizes and not protection.config:
        packet_bench.reset()
        yield packet_bench
        return
    with Bench.up(sizes=protection.sizes, **protection.config) as bench:
        yield bench


def test_every_reason_has_its_protection_or_needs_none() -> None:
    shown = {protection.reason for protection in PROTECTIONS if protection.reason}

    assert not shown & set(NO_PROTECTION)
    assert shown | set(NO_PROTECTION) == set(Reason)
