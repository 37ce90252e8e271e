/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Echo requests to a VIP are answered here: no backend ever sees one (R39, D64).
 */
#ifndef VIPBEE_ECHO_H
#define VIPBEE_ECHO_H

#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "packet.h"
#include "refuse.h"
#include "rewrite.h"

static __always_inline int is_echo_request(const struct packet *p)
{
	return p->icmp_type == (p->family == 4 ? 8 : 128);
}

/* An answer of our own starts with hops of its own, or it would die where it came from. */
static __always_inline int renew_hops(struct __sk_buff *ctx, const struct packet *p)
{
	__u8 hops = ANSWER_HOPS;

	if (p->family == 6)
		return bpf_skb_store_bytes(ctx, p->l2 + 7, &hops, sizeof(hops),
					   BPF_F_RECOMPUTE_CSUM);
	if (bpf_l3_csum_replace(ctx, p->l2 + IPV4_CHECKSUM, bpf_htons((__u16)p->ttl << 8),
				bpf_htons(ANSWER_HOPS << 8), 2))
		return -1;
	return bpf_skb_store_bytes(ctx, p->l2 + 8, &hops, sizeof(hops), 0);
}

/* RFC 792 and 4443: the same packet back, the type changed. */
static __noinline int answer_echo(struct __sk_buff *ctx, const struct packet *p)
{
	struct flow_tuple outer = {};
	__be16 from = bpf_htons((__u16)p->icmp_type << 8);
	__be16 to = p->family == 4 ? 0 : bpf_htons(129 << 8);
	__u8 type = p->family == 4 ? 0 : 129;

	if (!may_answer())
		return TC_ACT_SHOT;
	outer.source = p->tuple.destination;
	outer.destination = p->tuple.source;
	if (bpf_l4_csum_replace(ctx, p->l4 + ICMP_CHECKSUM, from, to, 2) ||
	    bpf_skb_store_bytes(ctx, p->l4, &type, sizeof(type), 0))
		return TC_ACT_SHOT;
	if (p->family == 4 ? rewrite_ipv4(ctx, p->l2 ? ETHERNET_HEADER : 0, &outer, 0, 0)
			   : rewrite_ipv6(ctx, p->l2 ? ETHERNET_HEADER : 0, &outer, 0))
		return TC_ACT_SHOT;
	return renew_hops(ctx, p) ? TC_ACT_SHOT : send_back(ctx, p->l2, 0);
}

#endif
