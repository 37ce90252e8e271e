/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP at the hooks: errors about connections of ours are translated, echo requests to a VIP
 * answered or ignored, everything else passes.
 */
#ifndef VIPBEE_ICMP_APPLY_H
#define VIPBEE_ICMP_APPLY_H

#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "conntrack.h"
#include "count.h"
#include "echo.h"
#include "fib.h"
#include "icmp.h"
#include "maps.h"
#include "martian.h"
#include "packet.h"
#include "packet_apply.h"

static __always_inline int is_node_address(__u32 flags)
{
	return flags & (ADDRESS_NODE | ADDRESS_SNAT);
}

/* `entering`: coming in by a device, so that what is not known may be dropped. */
static __noinline int icmp_error(struct __sk_buff *ctx, const struct packet *p, enum zone zone,
				 int entering)
{
	struct icmp_translation *to;
	struct icmp_work *work;
	struct route route = {};
	struct draft *draft;
	__u32 key = 0;

	draft = bpf_map_lookup_elem(&drafts, &key);
	if (!draft)
		return TC_ACT_UNSPEC;
	_Static_assert(sizeof(*work) <= sizeof(draft->icmp), "struct draft has room");
	work = (struct icmp_work *)draft->icmp;
	__builtin_memset(work, 0, sizeof(*work));
	to = &work->to;
	if (read_quote(ctx, p, &work->quote)) {
		if (!entering || is_node_address(p->address_flags))
			return TC_ACT_UNSPEC;
		return dropped(REASON_ICMP_MALFORMED);
	}
	if (!find_quoted(p, zone, &work->quote, to, entering)) {
		if (!entering)
			return TC_ACT_UNSPEC;
		if (!is_node_address(p->address_flags))
			return dropped(REASON_ICMP_UNKNOWN);
		count_reason(REASON_ICMP_PASSED); /* about a socket of this node */
		return TC_ACT_UNSPEC;
	}
	if (to->redirect && !entering)
		return TC_ACT_UNSPEC; /* restored where it comes in */
	if (checksum_is_wrong(ctx, p))
		return dropped(REASON_ICMP_MALFORMED);
	if (!to->redirect || to->to_node)
		return rewrite_icmp_error(ctx, p, &work->quote, to, 0)
			       ? dropped(REASON_REWRITE_FAILED)
			       : TC_ACT_UNSPEC;
	if (p->ttl <= 1)
		return dropped(REASON_TTL_EXPIRED); /* no error about an error */
	if (find_route(ctx, p, &to->source, &to->destination, &route) != ROUTE_FOUND)
		return dropped(REASON_NO_ROUTE);
	if (rewrite_icmp_error(ctx, p, &work->quote, to, 1))
		return dropped(REASON_REWRITE_FAILED);
	return send_by(ctx, p->l2, &route);
}

/* Echo is never delivered to a backend (R39) and never runs in circles (D64). */
static __always_inline int enter_icmp(struct __sk_buff *ctx, const struct packet *p, enum zone zone)
{
	__u32 flags = p->address_flags;

	if (!is_icmp_error(p) && !is_echo_request(p))
		return TC_ACT_UNSPEC;
	p = set_aside(p);
	if (!p)
		return TC_ACT_UNSPEC;
	if (is_icmp_error(p))
		return icmp_error(ctx, p, zone, 1);
	if (flags & ADDRESS_CLUSTER_IP)
		return dropped(REASON_ECHO_IGNORED);
	if (!(flags & ADDRESS_EXTERNAL) || is_node_address(flags) || p->fragment)
		return TC_ACT_UNSPEC;
	if (is_martian_source(&p->tuple))
		return dropped(REASON_MARTIAN);
	count_reason(REASON_ECHO_ANSWERED);
	return answer_echo(ctx, p);
}

#endif
