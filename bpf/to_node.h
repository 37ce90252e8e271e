/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Into this node's own stack by another device than the one a packet was seen at.
 *
 * The stack judges a source by the device it comes in by: with rp_filter, by the one that the
 * way back leaves by; its own addresses (a NodePort's replies) only by loopback, where
 * the agent sets accept_local.
 */
#ifndef VIPBEE_TO_NODE_H
#define VIPBEE_TO_NODE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "ctx_tc.h"
#include "fib.h"
#include "packet.h"
#include "packet_apply.h"

/* `link_address` is the device's own, of which the stack takes frames. */
static __always_inline int into_stack(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				      __u32 ifindex, const __u8 *link_address)
{
	__be16 type = bpf_htons(p->family == 4 ? ETH_P_IP : ETH_P_IPV6);

	if (!l2 && (bpf_skb_change_head(ctx, ETHERNET_HEADER, 0) ||
		    bpf_skb_store_bytes(ctx, 2 * ETH_ALEN, &type, sizeof(type), 0)))
		return dropped(REASON_REWRITE_FAILED);
	if (bpf_skb_store_bytes(ctx, 0, link_address, ETH_ALEN, 0))
		return dropped(REASON_REWRITE_FAILED);
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

static __always_inline int into_loopback(struct __sk_buff *ctx, const struct packet *p, __u32 l2)
{
	__u8 none[ETH_ALEN] = {};

	return into_stack(ctx, p, l2, LOOPBACK_IFINDEX, none);
}

/*
 * A drop on the way out that the sender does not hear of. TC_ACT_SHOT tells TCP of congestion,
 * and it gives up after seconds instead of minutes: so the packet goes where nobody takes it.
 */
static __always_inline int swallow(struct __sk_buff *ctx, const struct packet *p, __u32 l2)
{
	__u8 nobody[ETH_ALEN] = {};

	nobody[0] = 2; /* an initialiser would stand in .rodata, which is struct config's alone */
	return into_stack(ctx, p, l2, LOOPBACK_IFINDEX, nobody);
}

/* A reply, as the program that sent the request expects it. */
static __noinline int to_program(struct __sk_buff *ctx, const struct packet *p, __u32 l2,
				 const struct flow_tuple *to)
{
	struct bpf_fib_lookup fib = {};
	int verdict;
	long result;

	verdict = translate(ctx, p, l2, to, NULL);
	if (verdict != TC_ACT_UNSPEC)
		return verdict;
	fib.ifindex = ctx->ifindex;
	fib.l4_protocol = p->tuple.protocol;
	if (p->family == 4) {
		fib.family = AF_INET_;
		fib.ipv4_src = to->destination.word[3];
		fib.ipv4_dst = to->source.word[3];
	} else {
		fib.family = AF_INET6_;
		__builtin_memcpy(fib.ipv6_src, &to->destination, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &to->source, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		return into_loopback(ctx, p, l2);
	/* without a neighbour it does not say the device's address: then by this one */
	if ((result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_FRAG_NEEDED) &&
	    fib.ifindex != ctx->ifindex)
		return into_stack(ctx, p, l2, fib.ifindex, fib.smac);
	return TC_ACT_UNSPEC;
}

#endif
